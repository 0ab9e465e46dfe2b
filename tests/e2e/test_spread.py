"""Pods of a group on GPUs of their own (`mpslice.io/spread: gpu`), on a real node with two GPUs."""

import json

from hack.cluster.node import Node
from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION, SPREAD_OVER_GPUS
from tests.e2e.cluster import Cluster, Json, slice_pod, until


def members(group: str, count: int, size: int, *, spread: bool) -> list[Json]:
    """Pods that are bound together or not at all."""
    pods = [slice_pod(f"{group}-{number}", size) for number in range(count)]
    for pod in pods:
        annotations = {"mpslice.io/min-member": str(count)}
        if spread:
            annotations[SPREAD_ANNOTATION] = SPREAD_OVER_GPUS
        pod["metadata"] |= {"labels": {GROUP_LABEL: group}, "annotations": annotations}
    return pods


def gpus_of(cluster: Cluster, node: Node, names: list[str]) -> list[str]:
    """The GPU of each pod's slice, as the NodeLayout shows it."""
    keys = [f"{cluster.namespace}/{name}" for name in names]

    def shown() -> list[str]:
        held = {
            entry["pod"]: gpu["uuid"]
            for gpu in cluster.layout(node.name)["status"]["gpus"]
            for entry in gpu["slices"]
            if "pod" in entry
        }
        return [held[key] for key in keys] if held.keys() >= set(keys) else []

    return until(shown, f"the NodeLayout shows who holds the slices of {names}")


def test_pods_of_a_spread_group_run_on_gpus_of_their_own(cluster: Cluster, node: Node) -> None:
    """Two such pods without the annotation share the GPU that they fill best."""
    names = ["close-0", "close-1"]
    cluster.apply(*members("close", 2, 10, spread=False))
    for name in names:
        cluster.running(name)
    assert len(set(gpus_of(cluster, node, names))) == 1
    names = ["apart-0", "apart-1"]
    cluster.apply(*members("apart", 2, 10, spread=True))
    for name in names:
        cluster.running(name)
    gpus = gpus_of(cluster, node, names)
    assert len(set(gpus)) == 2
    visible = {cluster.environment(name)["NVIDIA_VISIBLE_DEVICES"] for name in names}
    assert visible == set(gpus)


def test_spread_group_that_has_more_pods_than_there_are_gpus_waits_whole(
    cluster: Cluster,
) -> None:
    cluster.apply(*members("wide", 3, 10, spread=True))

    def told() -> str:
        conditions = cluster.pod("wide-0")["status"].get("conditions") or ()
        said = (c for c in conditions if c["type"] == "mpslice.io/SliceAvailable")
        return next((c["reason"] for c in said), "")

    assert until(told, "the pod says why it waits") == "Group"
    pods = cluster.get("pods")["items"]
    assert [pod["spec"].get("nodeName") for pod in pods] == [None] * 3, json.dumps(pods)
    cluster.delete("wide-2")
    for pod in members("wide", 2, 10, spread=True):
        cluster.kubectl(
            "annotate", "pod", pod["metadata"]["name"], "mpslice.io/min-member=2", "--overwrite"
        )
    for name in ("wide-0", "wide-1"):
        cluster.running(name)
