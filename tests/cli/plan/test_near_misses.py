"""Pods that ask for no slice though somebody meant one: they are named, and the status is 1."""

from pathlib import Path

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Run, asking, node, pod, workload

MEANT = {
    "nividia.com/gpu-10gb": "nvidia.com/gpu-10gb",
    "nvdia.com/gpu-10gb": "nvidia.com/gpu-10gb",
    "nvidai.com/gpu-10gb": "nvidia.com/gpu-10gb",
    "nvidia.co/gpu-10gb": "nvidia.com/gpu-10gb",
    "nvidia/gpu-10gb": "nvidia.com/gpu-10gb",
    "gpu-10gb": "nvidia.com/gpu-10gb",
    "nos.nebuly.com/gpu-10gb": "nvidia.com/gpu-10gb",
    "mpslice.io/gpu-10gb": "nvidia.com/gpu-10gb",
    "nvidia.com/gpus-10gb": "nvidia.com/gpu-10gb",
    "nvidia.com/gup-10gb": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-10g": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-10gbb": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-10bg": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-10gn": "nvidia.com/gpu-10gb",
    "nvidia.com/10gb": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-10": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-10gigs": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-ten": "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-tengb": "nvidia.com/gpu-10gb",
    "nividia.com/gpu-512mb": "nvidia.com/gpu-1gb",
    "nvidia.com/slice-20gb": "nvidia.com/gpu-20gb",
    "nvidia.com/gpumem": "nvidia.com/gpu-4gb",
    "volcano.sh/vgpu-memory": "nvidia.com/gpu-4gb",
    "aliyun.com/gpu-mem": "nvidia.com/gpu-3222gb",
    "gpu-memory": "nvidia.com/gpu-4gb",
    "nvidia.com/vgpu-memory": "nvidia.com/gpu-<N>gb, such as nvidia.com/gpu-10gb",
}
"""The count is 3000."""


@pytest.mark.parametrize("name", MEANT)
def test_name_that_nearly_is_a_slice_is_told_with_what_was_meant(plan: Plan, name: str) -> None:
    made = plan(node(), asking("p", {name: 3000}))
    assert made.status == 1
    told = f"{name} looks like {MEANT[name]}"
    assert made.json["unplanned"] == [
        {"object": "Pod default/p", "reason": "AsksForNoSlice", "message": told}
    ]
    assert made.err == f"kubectl mpslice: 1 pod asks for no slice: default/p ({told})\n"


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "rdma/hca",
        "amd.com/gpu",
        "intel.com/gpu-10gb",
        "nvidia.com/gpu0",
        "nvidia.com/gpu-3090",
        "nvidia.com/gpu-3090ti",
        "nvidia.com/gpu-a100",
        "nvidia.com/gpucores",
        "example.com/disk-10gb",
        "hugepages-2Mi",
        "ephemeral-storage",
        "smarter-devices/fuse",
    ],
)
def test_resource_of_somebody_else_is_no_near_miss(plan: Plan, name: str) -> None:
    made = plan(node(), asking("p", {name: 1}), pod("q", 10))
    assert made.json["unplanned"] == []
    assert made.status == 0


def test_resource_that_a_node_offers_is_meant(plan: Plan) -> None:
    offering = node()
    offering["status"]["allocatable"]["nvidia.com/gpu-10"] = "2"
    assert plan(offering, asking("p", {"nvidia.com/gpu-10": 1}), pod("q", 10)).status == 0


@pytest.mark.parametrize(
    ("resource", "told"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu asks for a whole GPU, and not for a slice"),
        ("nvidia.com/mig-1g.10gb", "nvidia.com/mig-1g.10gb asks for a MIG device, and not for a"),
    ],
)
def test_whole_gpus_are_named_where_nothing_asks_for_a_slice(
    plan: Plan, resource: str, told: str
) -> None:
    made = plan(node(), asking("p", {resource: 1}))
    assert made.status == 1
    assert told in made.json["unplanned"][0]["message"]
    assert plan(node(), asking("p", {resource: 1}), pod("q", 10)).status == 0


def test_slice_in_the_wrong_place_is_told_with_the_right_one(plan: Plan) -> None:
    ten = {"nvidia.com/gpu-10gb": 1}
    right = "write it in spec.containers[0].resources.limits"
    for change, where in (
        ({"resources": ten}, "spec.containers[0].resources, where nothing reads it"),
        ({"limits": ten}, "spec.containers[0].limits, where nothing reads it"),
        (ten, "spec.containers[0], where nothing reads it"),
    ):
        bad = pod("p")
        bad["spec"]["containers"] = [{"name": "c", "image": "x", **change}]
        made = plan(node(), bad)
        assert made.status == 1
        assert made.json["unplanned"][0]["message"] == (
            f"nvidia.com/gpu-10gb stands in {where}; {right}"
        )


def test_pod_level_resources_take_no_slices(plan: Plan) -> None:
    bad = pod("p", resources={"limits": {"nvidia.com/gpu-10gb": 1}})
    bad["spec"]["containers"] = [{"name": "c", "image": "x"}]
    made = plan(node(), bad)
    assert made.status == 1
    assert made.json["unplanned"][0]["message"] == (
        "spec.resources.limits takes only cpu, memory and huge pages; write nvidia.com/gpu-10gb "
        "in spec.containers[0].resources.limits"
    )


def test_replicas_of_a_near_miss_are_one_line(run: Run, given: Given) -> None:
    web = workload("Deployment", "web", replicas=12)
    web["spec"]["template"] = {"spec": asking("p", {"gpu-10gb": 1})["spec"]}
    run("plan", "-f", given(node(), web))
    assert run.status == 1
    assert "  team/web ×12: gpu-10gb looks like nvidia.com/gpu-10gb\n" in run.out
    assert "12 pods ask for no slice: team/web-0 (gpu-10gb looks" in run.err


def test_pod_that_waits_in_the_cluster_for_a_near_miss_is_named(run: Run, dump: Given) -> None:
    waiting = asking("p", {"nividia.com/gpu-10gb": 1}) | {"status": {"phase": "Pending"}}
    running = asking("q", {"gpu-10gb": 1}, node="n1")
    whole = asking("r", {"nvidia.com/gpu": 1}) | {"status": {"phase": "Pending"}}
    run("plan", "-o", "json", "-f", dump(node(), waiting, running, whole, pod("s", 10)))
    assert [told["object"] for told in run.json["unplanned"]] == ["Pod default/p"]


def test_input_in_which_nothing_asks_is_no_success(run: Run, given: Given, tmp_path: Path) -> None:
    said = "kubectl mpslice: no pod of the input asks for a slice, so nothing is planned\n"
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n---\n")
    for file in (
        empty,
        given(node()),
        given(node(), workload("Deployment", "web", 10, replicas=0)),
    ):
        run("plan", "-f", file, "-o", "name")
        assert (run.status, run.out, run.err) == (1, "", said)


def test_pods_that_hold_slices_are_success(run: Run, given: Given) -> None:
    run("plan", "-f", given(node(), pod("p", 10, node="n1") | {"status": {"phase": "Running"}}))
    assert (run.status, run.err) == (0, "")
