"""Preemption across sizes on a real node: a 10gb pod in the place of two of 8gb on a 16 GB GPU."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.cluster.controlplane import ControlPlane
from hack.cluster.node import Node
from hack.cluster.programs import MpslicePrograms
from tests.chart import render
from tests.e2e.cluster import Cluster, slice_pod, until

SWITCH = "MPSLICE_PREEMPTION"  # the variable of the flag --preemption
ACCOUNT = "system:serviceaccount:mpslice-system:mpslice-planner"
T4 = {
    "uuid": "GPU-00000000-0000-0000-0000-000000000016",
    "product": "Tesla T4",
    "memoryMiB": 15360,
    "reservedMiB": 400,
    "computeCapability": "7.5",
}


def set_rights(plane: ControlPlane, *values: str) -> None:
    """What the planner may do, as the chart has it with these values."""
    wanted = {
        ("ClusterRole", "mpslice-planner"),
        ("ValidatingAdmissionPolicy", "mpslice-planner-pods"),
    }
    documents = [
        document
        for document in render(plane.parts.helm, *values)
        if (document["kind"], document["metadata"]["name"]) in wanted
    ]
    assert len(documents) == len(wanted)
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=manifest)


@pytest.fixture
def preempting(
    cluster: Cluster,
    node: Node,
    mpslice_programs: MpslicePrograms,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cluster]:
    """With `planner.preemption`, on a node with one GPU of 16 GB."""
    planner = mpslice_programs.planner
    file = mpslice_programs.simulated_gpus
    before = file.read_text()
    set_rights(cluster.plane, "--set=planner.preemption=true")
    monkeypatch.setenv(SWITCH, "true")
    planner.stop()
    planner.start()
    _restart_with(file, yaml.safe_dump({"gpus": [T4]}), mpslice_programs)
    until(lambda: capacities(cluster, node) == [16], "the node has one GPU of 16 GB")
    yield cluster
    cluster.kubectl("delete", "deployments,pods", "--all", "--wait=true")
    monkeypatch.delenv(SWITCH)
    planner.stop()
    planner.start()
    set_rights(cluster.plane)
    _restart_with(file, before, mpslice_programs)
    until(lambda: capacities(cluster, node) == [85, 85], "the node has its GPUs again")


def _restart_with(file: Path, gpus: str, programs: MpslicePrograms) -> None:
    programs.nodeagent.stop()
    file.write_text(gpus)
    programs.nodeagent.start()


def capacities(cluster: Cluster, node: Node) -> list[int]:
    status = cluster.layout(node.name).get("status") or {}
    return [gpu["capacityGB"] for gpu in status.get("gpus", ()) if gpu["healthy"]]


def may_evict(cluster: Cluster, name: str) -> bool:
    """Whether the planner's account may evict the pod: asked in dry run."""
    uid = cluster.pod(name)["metadata"]["uid"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    }
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction?dryRun=All"
    said = cluster.kubectl(
        "create",
        f"--raw={path}",
        "-f",
        "-",
        f"--as={ACCOUNT}",
        input=json.dumps(eviction),
        check=False,
    )
    return '"Success"' in said


def nodes(cluster: Cluster) -> dict[str, str]:
    """The node of each pod that there is, "" for one without."""
    pods = cluster.get("pods")["items"]
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in pods}


def test_pod_takes_the_place_of_two_smaller_ones(preempting: Cluster, node: Node) -> None:
    cluster = preempting
    high = f"high-{cluster.namespace}"
    cluster.kubectl("create", "priorityclass", high, "--value=1000")
    cluster.apply(slice_pod("first", 8), slice_pod("second", 8))
    for name in ("first", "second"):
        assert cluster.running(name)["spec"]["nodeName"] == node.name
    until(lambda: may_evict(cluster, "first"), "the planner may evict")
    began = time.monotonic()
    cluster.apply(slice_pod("large", 10, priorityClassName=high))
    until(lambda: not {"first", "second"} & set(nodes(cluster)), "both have ended", 60)
    ended = time.monotonic()
    until(lambda: nodes(cluster)["large"] == node.name, "the large pod is bound", 60)
    bound = time.monotonic()
    said = f"both ended after {ended - began:.2f} s, bound {bound - ended:.2f} s after that"
    print(said)  # noqa: T201  # a measurement, for `pytest -s`
    pod = cluster.running("large")
    assert "schedulingGates" not in pod["spec"]
    for name in ("first", "second"):
        (told,) = cluster.events(name, "Preempted")
        assert told.startswith(f"evicted from {node.name} for pod {cluster.namespace}/large, ")
    why = cluster.events("large", "SliceUnavailable")
    waited = f"waits for the end of pods {cluster.namespace}/first, {cluster.namespace}/second on "
    assert any(waited in text for text in why), why
    cluster.kubectl("delete", "priorityclass", high)
