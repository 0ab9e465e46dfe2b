"""A slice pod on a real cluster: webhook, planner, node agent, stock scheduler and kubelet."""

import json
from typing import Any

import pytest

from hack.cluster.node import Node
from hack.cluster.programs import SIMULATED_GPUS, MpslicePrograms
from tests.e2e.cluster import Cluster, slice_pod, until

pytestmark = pytest.mark.versions

UUIDS = [gpu["uuid"] for gpu in SIMULATED_GPUS]


def test_minimal_pod_runs_in_its_slice(cluster: Cluster, node: Node) -> None:
    cluster.apply(slice_pod("train", 10))
    pod = cluster.running("train")
    assert pod["spec"]["hostIPC"] is True
    assert pod["spec"]["nodeName"] == node.name
    assert "schedulingGates" not in pod["spec"]
    seen = cluster.environment("train")
    assert seen["uid"] == "1000"
    assert seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9533M"
    assert seen["CUDA_MPS_PIPE_DIRECTORY"] == "/run/mpslice/pipe"
    assert seen["MPSLICE_MEMORY_MIB"] == "9533"
    assert seen["MPSLICE_MEMORY_FRACTION"] == "0.1164"
    assert seen["NVIDIA_VISIBLE_DEVICES"] in UUIDS

    def holder() -> list[Any]:
        gpus = cluster.layout(node.name)["status"]["gpus"]
        return [
            (s["pod"], s["container"], s["state"])
            for gpu in gpus
            for s in gpu["slices"]
            if s["size"] == "10gb" and "pod" in s
        ]

    held = until(holder, "the NodeLayout names the holder")
    assert held == [(f"{cluster.namespace}/train", "main", "Used")]


def test_sizes_share_a_gpu_and_room_goes_to_the_next(cluster: Cluster, node: Node) -> None:
    # The largest first: on a busy machine they are planned one by one, and a small one may take
    # the GPU that the large one needs rather than withdraw a free slice.
    cluster.apply(slice_pod("other-gpu", 80))
    cluster.running("other-gpu")
    cluster.apply(slice_pod("first", 60), slice_pod("second", 20))
    first = cluster.running("first"), cluster.environment("first")
    cluster.running("second")
    shared = cluster.environment("second")["NVIDIA_VISIBLE_DEVICES"]
    assert first[1]["NVIDIA_VISIBLE_DEVICES"] == shared
    cluster.apply(slice_pod("third", 50))
    why = "50gb: 0 of 1 nodes: 1 GPUMemory (largest hole 5gb on "
    until(
        lambda: any(each.startswith(why) for each in cluster.events("third", "SliceUnavailable")),
        "third is told why it waits",
    )
    cluster.delete("first")
    cluster.running("third")
    assert cluster.environment("third")["NVIDIA_VISIBLE_DEVICES"] == shared


def test_refusal_is_shown_on_the_replicaset(cluster: Cluster) -> None:
    template = slice_pod("unused", 10)["spec"]
    template["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu-10gb": "2"}}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "two-slices"},
            "spec": {
                "selector": {"matchLabels": {"app": "two"}},
                "template": {"metadata": {"labels": {"app": "two"}}, "spec": template},
            },
        }
    )
    described = until(
        lambda: next(
            (
                line
                for line in cluster.kubectl("describe", "replicaset").splitlines()
                if "Warning" in line and "FailedCreate" in line
            ),
            "",
        ),
        "the ReplicaSet shows why it has no pod",
    )
    assert "MultipleSlices" in described
    assert "nvidia.com/gpu-20gb: 1" in described


def test_pod_without_slices_is_untouched(cluster: Cluster) -> None:
    plain = slice_pod("plain", 10)
    del plain["spec"]["containers"][0]["resources"]
    cluster.apply(plain)
    pod = cluster.running("plain")
    assert "hostIPC" not in pod["spec"]
    assert "schedulingGates" not in pod["spec"]
    seen = cluster.environment("plain")
    assert seen["uid"] == "0"
    assert not [key for key in seen if key.startswith(("CUDA_", "MPSLICE_", "NVIDIA_"))]


def test_higher_priority_preempts_nobody_while_memory_is_free(cluster: Cluster) -> None:
    cluster.kubectl("create", "priorityclass", f"high-{cluster.namespace}", "--value=1000")
    cluster.apply(slice_pod("low", 10))
    before = cluster.running("low")
    cluster.apply(slice_pod("high", 10, priorityClassName=f"high-{cluster.namespace}"))
    cluster.running("high")
    after = cluster.pod("low")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["phase"] == "Running"
    assert "deletionTimestamp" not in after["metadata"]
    assert cluster.events("low", "Preempted") == []


def test_pod_that_no_node_can_hold_loses_its_gate_and_says_why(cluster: Cluster) -> None:
    cluster.apply(slice_pod("huge", 500))
    told = until(lambda: cluster.events("huge", "SliceUnavailable"), "the Event is there")
    assert told == ["500gb: 0 of 1 nodes: 1 GPUTooSmall (largest 85gb)"]
    until(lambda: "schedulingGates" not in cluster.pod("huge")["spec"], "the pod has lost its gate")


@pytest.mark.parametrize("program", ["webhook", "planner", "nodeagent"])
def test_kill_and_restart_of_a_program_ends_in_the_same_place(
    cluster: Cluster, node: Node, mpslice_programs: MpslicePrograms, program: str
) -> None:
    # A size of its own each time, so that the kill comes before the slice is carved.
    size = {"webhook": 21, "planner": 22, "nodeagent": 23}[program]
    cluster.apply(slice_pod("before", 10))
    running = cluster.running("before")
    killed = getattr(mpslice_programs, program)
    killed.kill()
    if program == "webhook":
        refused = cluster.kubectl(
            "apply", "--filename=-", input=_as_json(slice_pod("during", size)), check=False
        )
        assert "mpslice.io" in refused
    else:
        cluster.apply(slice_pod("during", size))
    killed.start()
    if program == "webhook":
        until(lambda: _applied(cluster, slice_pod("during", size)), "the webhook serves again")
    cluster.running("during")
    after = cluster.pod("before")
    assert after["status"]["containerStatuses"] == running["status"]["containerStatuses"]

    def used() -> bool:
        slices = [
            (s["size"], s["pod"])
            for gpu in cluster.layout(node.name)["status"]["gpus"]
            for s in gpu["slices"]
            if s["state"] == "Used"
        ]
        mine = cluster.namespace
        return sorted(slices) == [("10gb", f"{mine}/before"), (f"{size}gb", f"{mine}/during")]

    until(used, "the NodeLayout shows both holders")


def test_pod_keeps_its_gate_while_the_agent_is_replaced(
    cluster: Cluster, node: Node, mpslice_programs: MpslicePrograms
) -> None:
    agent = mpslice_programs.nodeagent
    agent.stop()
    cluster.apply(slice_pod("waits", 24))
    told = until(lambda: cluster.events("waits", "SliceUnavailable"), "the pod is told why")
    assert told == ["24gb: 0 of 1 nodes: 1 NotReady"]
    assert "schedulingGates" in cluster.pod("waits")["spec"]
    agent.start()
    cluster.running("waits")


def _as_json(pod: Any) -> str:
    return json.dumps(pod)


def _applied(cluster: Cluster, pod: Any) -> bool:
    said = cluster.kubectl("apply", "--filename=-", input=_as_json(pod), check=False)
    return "created" in said or "unchanged" in said or "configured" in said
