"""Which gates go: those of a group together, and of no pod that would take another's slice."""

from dataclasses import replace

import pytest

from mpslice.gpus import GpuUuid
from planner.gate.gates import keeps_gate, whole_groups
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Refusal, Reservation
from planner.model.pods import GATE, Group, Pod
from planner.model.snapshot import Snapshot
from tests.planner.test_packing import gb, node, on, pod

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z"


def member(name: str, *, gated: bool = True, minimum: int | None = None) -> Pod:
    gates = (GATE,) if gated else ()
    return pod(name, 10, gates=gates, group="g", min_member=minimum)


def placed(*pods: Pod) -> list[Placement]:
    return [Placement(pod, "n1", (GpuUuid("n1-0"),)) for pod in pods]


def names(placements: list[Placement]) -> list[str]:
    return [placement.pod.name for placement in placements]


def released(
    ready: list[Pod], waiting: list[Pod], refused: list[Pod], group: Group | None = None
) -> list[str]:
    """Who of the ready may go."""
    groups = {"default/g": group} if group else {}
    refusals = [Refusal(pod, ()) for pod in refused]
    going, staying = whole_groups(placed(*ready), placed(*waiting), refusals, groups)
    assert sorted(names(going) + names(staying)) == sorted(p.name for p in (*ready, *waiting))
    return names(going)


def test_pods_without_a_group_go_as_they_are_ready() -> None:
    assert released([pod("a", 10, gates=(GATE,))], [pod("b", 10, gates=(GATE,))], []) == ["a"]


def test_group_goes_when_the_slices_of_its_minimum_are_all_there() -> None:
    a, b, c = (member(name) for name in "abc")
    assert released([a], [b, c], [], Group(minimum=2)) == []
    assert released([a, b], [c], [], Group(minimum=2)) == ["a", "b"]


def test_bound_members_count() -> None:
    a, b = member("a"), member("b")
    assert released([a], [b], [], Group(minimum=3, bound=2)) == ["a"]


def test_group_that_was_half_let_go_is_completed() -> None:
    a, b, c = member("a", gated=False), member("b", gated=False), member("c")
    assert released([a, c], [b], [], Group(minimum=3)) == ["a", "c"]


def test_without_a_podgroup_the_annotation_says_how_many() -> None:
    a, b = member("a", minimum=2), member("b", minimum=2)
    assert released([a], [b], []) == []
    assert released([a, b], [], []) == ["a", "b"]
    assert released([a], [], [], Group(bound=1)) == ["a"]


def test_without_any_minimum_all_pending_pods_go_together() -> None:
    a, b = member("a"), member("b")
    assert released([a], [b], []) == []
    assert released([a], [], [b]) == []
    assert released([a, b], [], [], Group(bound=5)) == ["a", "b"]


@pytest.mark.parametrize(
    ("refused", "group", "keeps"),
    [
        (Refusal(pod("lone", 10), ()), None, False),
        (Refusal(member("m"), ()), Group(minimum=2), True),
        (Refusal(member("m"), (), own=Cause.GROUP), Group(minimum=2), True),
        (Refusal(member("extra"), ()), Group(minimum=2, bound=2), False),
        (Refusal(member("m"), ()), None, True),
        (Refusal(member("m", minimum=2), ()), Group(bound=2), False),
    ],
    ids=["lone", "group", "told so", "beyond the minimum", "no minimum", "annotated"],
)
def test_pod_without_a_place_keeps_its_gate_for_its_group(
    refused: Refusal, group: Group | None, keeps: bool
) -> None:
    groups = {"default/g": group} if group else {}
    assert keeps_gate(refused, Snapshot(groups=groups)) is keeps


BIG = pod("big", 40, created=OLD)
KEPT = (Reservation(BIG, "n1", (GpuUuid("n1-0"),)),)
SMALL = pod("small", 10, created=NEW, gates=(GATE,))
FREE, FULL = node("n1", 80, free={0: gb({10: 1})}), node("n1", 80, used={0: gb({10: 8})})


@pytest.mark.parametrize(
    ("other", "state", "keeps"),
    [
        (SMALL, FREE, True),
        (SMALL, FULL, False),
        (pod("size", 20, created=NEW, gates=(GATE,)), FREE, False),
        (replace(SMALL, constraints=on("n2")), FREE, False),
    ],
    ids=["takes it", "nothing is free", "another size", "elsewhere"],
)
def test_pod_keeps_its_gate_while_it_would_take_a_free_slice_on_reserved_gpus(
    other: Pod, state: NodeState, keeps: bool
) -> None:
    refused = Refusal(other, ((Cause.GPU_MEMORY, 1),), own=Cause.RESERVED)
    assert keeps_gate(refused, Snapshot((state,)), KEPT) is keeps
