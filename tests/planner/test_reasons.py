"""What a refused pod is told: every cause is true, and says which figure or name decides it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from planner.gate.gates import keeps_gate
from planner.model.constraints import Constraints, Expression, NodeTerm, Resources, Taint
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Refusal
from planner.model.pods import Group, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.words.explain import refusal_text
from tests.planner.test_packing import LABEL, gb, node, on, pod

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO, LATELY = "2026-01-01T11:50:00Z", "2026-01-01T11:59:00Z"
GPU_TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")
IN_A = NodeTerm((Expression("zone", "In", ("a",)),))


def refusals(nodes: tuple[NodeState, ...], *pods: Pod, **fields: Any) -> dict[str, Refusal]:
    made = plan(Snapshot(nodes, **fields), pods)
    return {refusal.pod.name: refusal for refusal in made.refusals}


def told(nodes: tuple[NodeState, ...], *pods: Pod, **fields: Any) -> dict[str, str]:
    found = refusals(nodes, *pods, **fields)
    return {name: refusal_text(refusal, LABEL) for name, refusal in found.items()}


def wants(**fields: Any) -> dict[str, Resources]:
    return {"requests": Resources(**fields)}


@pytest.mark.parametrize(
    ("state", "fields", "text"),
    [
        (node("n1", 80, taints=(GPU_TAINT,)), {}, "Taint (nvidia.com/gpu=present:NoSchedule)"),
        (
            node("n1", 80, offers_gb=False),
            {"constraints": Constraints(gb=True)},
            "ExtendedResource (mpslice.io/gb is not offered there yet)",
        ),
        (
            node("n1", 80, idle=Resources(15_900, 1 << 38)),
            wants(cpu_milli=64_000),
            "CPU (wants 64, most free 15.9)",
        ),
        (
            node("n1", 80, idle=Resources(15_900, 1 << 30)),
            wants(memory=3 << 30),
            "Memory (wants 3072Mi, most free 1024Mi)",
        ),
        (
            node("n1", 80),
            wants(extended=(("rdma/hca", 1),)),
            "ExtendedResource (rdma/hca: wants 1, most free 0)",
        ),
        (node("n1", 16), {}, "GPUTooSmall (largest 16gb)"),
        (node("n1", 80), {"constraints": on("n9")}, "NodeAffinity (wants host=n9)"),
        (
            node("n1", 80),
            {"avoid": frozenset({"n1"})},
            "Avoided (the scheduler did not bind it there)",
        ),
        (
            node("n1", 80),
            {"volume_topology": ((IN_A,),)},
            "Volume (a bound PersistentVolume cannot be reached from there)",
        ),
    ],
)
def test_cause_names_what_decides_it(state: NodeState, fields: dict[str, Any], text: str) -> None:
    assert told((state,), pod("p", 20, **fields)) == {"p": f"20gb: 0 of 1 nodes: 1 {text}"}


def test_pod_goes_where_all_its_volumes_are() -> None:
    nodes = (node("n1", 20), node("n2", 20))
    by_host = ((NodeTerm((Expression("host", "In", ("n2",)),)),),)
    (placement,) = plan(Snapshot(nodes), [pod("p", 20, volume_topology=by_host)]).placements
    assert placement.node == "n2"


def test_reason_is_the_cause_nearest_to_a_placement() -> None:
    """Three nodes can never hold the pod; the fourth could, once a slice comes free."""
    small = tuple(node(f"t{n}", 14) for n in range(3))
    full = node("a100", 80, used={0: gb({60: 1})})
    (refusal,) = refusals((*small, full), pod("p", 40)).values()
    assert refusal.reason == Cause.GPU_MEMORY


def test_pod_that_holds_the_reservation_is_not_told_that_it_is_anothers() -> None:
    full = node("n1", 80, 80, used={0: gb({60: 1}), 1: gb({80: 1})})
    nodes = (with_allocatable(full),)
    old = pod("old", 20, 20, created=LONG_AGO)
    found = refusals(nodes, old, now=NOW)["old"]
    assert (found.own, dict(found.causes)) == (None, {Cause.GPU_MEMORY: 1})
    assert not keeps_gate(found, Snapshot())


def test_pod_that_fits_nowhere_anyway_is_not_told_that_room_is_reserved() -> None:
    nodes = (with_allocatable(node("n1", 80, used={0: gb({50: 1})})),)
    pods = [pod("old", 60, created=LONG_AGO), pod("three", 30, 30, 30, created=LATELY)]
    found = refusals(nodes, *pods, now=NOW)["three"]
    assert (found.own, dict(found.causes)) == (None, {Cause.GPU_TOO_SMALL: 1})


def test_pod_that_only_a_reservation_keeps_out_is_told_whose_it_is() -> None:
    nodes = (with_allocatable(node("n1", 80, used={0: gb({50: 1})})),)
    pods = [pod("old", 60, created=LONG_AGO), pod("young", 20, created=LATELY)]
    assert told(nodes, *pods, now=NOW)["young"] == (
        "20gb: Reserved (what is left on n1 is kept for default/old), 0 of 1 nodes: 1 Reserved"
    )


def with_allocatable(state: NodeState) -> NodeState:
    return replace(state, node=replace(state.node, allocatable=state.idle))


def test_several_slices_are_told_how_many_of_them_fit() -> None:
    nodes = (node("n1", 40, 40, used={1: gb({20: 1})}),)
    assert told(nodes, pod("two", 30, 30)) == {
        "two": "2 x 30gb: 0 of 1 nodes: 1 GPUMemory "
        "(largest hole 40gb on n1 GPU 0; room for 1 of its 2 slices on n1)"
    }


def test_group_whose_pods_fit_one_by_one_blames_no_node() -> None:
    pods = [pod(f"m{n}", 30, group="g", min_member=2) for n in range(2)]
    texts = set(told((node("n1", 40),), *pods).values())
    assert texts == {"30gb: Group (the 2 pods that group g still needs do not all fit at once)"}


def test_group_that_lacks_pods_is_told_how_many_to_create() -> None:
    lone = pod("m0", 4, group="g", min_member=3)
    assert told((node("n1", 85),), lone) == {
        "m0": "4gb: Group (group g has 1 of 3 pods; create 2 more)"
    }


def test_members_that_need_no_slice_any_more_count_for_the_minimum() -> None:
    snapshot = Snapshot((node("n1", 80),), groups={"default/g": Group(4, bound=3)})
    made = plan(snapshot, [pod("retried", 10, group="g")])
    assert [placement.pod.name for placement in made.placements] == ["retried"]


def test_without_any_labelled_node_that_is_the_reason_and_no_gate_is_kept() -> None:
    found = refusals((), pod("p", 20))["p"]
    assert found.reason == Cause.NO_NODE
    assert not keeps_gate(found, Snapshot())
