"""Why a pod is refused or has no place: the figure or name that decides, and what to do."""

import pytest

from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Json, asking, node, pod


def member(name: str, size: int, **annotations: str) -> Json:
    made = pod(name, size)
    made["metadata"] |= {
        "labels": {"scheduling.x-k8s.io/pod-group": "g"},
        "annotations": annotations,
    }
    return made


def test_group_that_lacks_members_says_how_many(plan: Plan) -> None:
    made = plan(node(), member("m", 4, **{"mpslice.io/min-member": "3"}))
    assert made.unplaced == {
        "default/m": "4gb: Group (group g has 1 of 3 pods; create 2 more)",
    }


def test_group_without_any_node_blames_no_member(plan: Plan) -> None:
    made = plan(member("m1", 10), member("m2", 10))
    no_node = "10gb: 0 of 0 nodes: no node is labelled nos.nebuly.com/gpu-partitioning=mps"
    assert made.unplaced == {"default/m1": no_node, "default/m2": no_node}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nvidia.com/gpu-512mb", "nvidia.com/gpu-1gb"),
        ("nvidia.com/gpu-10gib", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-1tb", "nvidia.com/gpu-1000gb"),
        ("nvidia.com/gpu-1.5gb", "nvidia.com/gpu-2gb"),
    ],
)
def test_wrong_size_is_refused_with_the_slice_that_holds_as_much(
    plan: Plan, name: str, meant: str
) -> None:
    (rejected,) = plan(node(), asking("p", {name: 1})).json["rejected"]
    assert rejected["reason"] == "InvalidSlice"
    assert meant in rejected["message"]


@pytest.mark.parametrize(
    ("limits", "spec", "said"),
    [
        ({"cpu": 64}, {}, "1 CPU (wants 64, most free 15.9)"),
        ({"memory": "64Gi"}, {}, "1 Memory (wants 65536Mi, most free 32768Mi)"),
        ({"rdma/hca": 1}, {}, "1 ExtendedResource (rdma/hca: wants 1, most free 0)"),
        ({}, {"tolerations": []}, "1 Taint (nvidia.com/gpu=present:NoSchedule)"),
        ({}, {"nodeSelector": {"gpu": "h100"}}, "1 NodeAffinity (wants gpu=h100)"),
    ],
    ids=["CPU", "Memory", "ExtendedResource", "Taint", "NodeAffinity"],
)
def test_cause_names_what_decides_it(plan: Plan, limits: Json, spec: Json, said: str) -> None:
    tainted = node()
    tainted["spec"] = {
        "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    }
    tainted["status"]["allocatable"] = {"cpu": "15900m", "memory": "32Gi", "pods": "9"}
    asks = asking("p", {"nvidia.com/gpu-10gb": 1, **limits})
    asks["spec"] |= {"tolerations": [{"operator": "Exists"}]} | spec
    assert plan(tainted, asks).unplaced == {"default/p": f"10gb: 0 of 1 nodes: {said}"}


def test_reason_is_the_cause_nearest_to_a_placement(plan: Plan) -> None:
    """Three T4 and one A100 that is full: it is not that 40gb is too much for ever."""
    nodes = [node(f"t4-{i}", memory="15360") for i in range(3)]
    made = plan(*nodes, node("a100"), pod("old", 80, node="a100"), pod("p", 40))
    (unplaced,) = made.json["unplaced"]
    assert unplaced["reason"] == "GPUMemory"
    assert unplaced["message"] == (
        "40gb: 0 of 4 nodes: 3 GPUTooSmall (largest 16gb), "
        "1 GPUMemory (largest hole 5gb on a100 GPU 0)"
    )


def test_all_faults_of_a_pod_are_told_at_once(plan: Plan) -> None:
    bad = pod("p", 10, hostUsers=False, volumes=[{"name": "shm", "emptyDir": {}}])
    bad["spec"]["containers"][0] |= {
        "securityContext": {"runAsUser": 0},
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}],
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        "resources": {"limits": {"nvidia.com/gpu-10gb": 2}},
    }
    (rejected,) = plan(node(), bad).json["rejected"]
    told = [line.partition(":")[0] for line in rejected["message"].splitlines()]
    assert told == [
        "MultipleSlices",
        "UserNamespaceConflict",
        "RunAsUserMismatch",
        "ReservedEnvironment",
        "ReservedMount",
    ]
