"""Whose gate goes: groups together, and nobody who could take what is kept for another."""

from dataclasses import replace

import pytest

from mpslice.gpus import GpuUuid
from planner.gate.gates import hold_back, keeps_gate, whole_groups
from planner.model import GATE, Cause, Group, NodeState, Placement, Pod, Refusal, Reservation
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
        (Refusal(pod("held", 10), (), own=Cause.RESERVED), None, True),
    ],
    ids=["lone", "group", "told so", "beyond the minimum", "no minimum", "annotated", "reserved"],
)
def test_pod_without_a_place_keeps_its_gate_for_its_group_or_a_reservation(
    refused: Refusal, group: Group | None, keeps: bool
) -> None:
    groups = {"default/g": group} if group else {}
    assert keeps_gate(refused, groups) is keeps


BIG = pod("big", 40, created=OLD)
KEPT = (Reservation(BIG, "n1", (GpuUuid("n1-0"),)),)
SMALL = pod("small", 10, created=NEW, gates=(GATE,))
STATES = (node("n1", 80, 80, used={0: gb({10: 8})}), node("n2", 80))


def held(refused: Pod, states: tuple[NodeState, ...] = STATES) -> Refusal:
    (refusal,) = hold_back([Refusal(refused, ((Cause.GPU_MEMORY, 2),))], KEPT, states)
    return refusal


def test_younger_pod_that_could_take_what_comes_free_is_held_back() -> None:
    refusal = held(SMALL)
    assert refusal.own is Cause.RESERVED
    assert refusal.note == "n1 GPU 0 is kept for default/big"
    assert refusal.causes == ((Cause.GPU_MEMORY, 2),)


@pytest.mark.parametrize(
    "other",
    [
        replace(SMALL, priority=1),
        replace(SMALL, created="2025-12-31T00:00:00Z"),
        pod("size", 20, created=NEW, gates=(GATE,)),
        replace(SMALL, constraints=on("n2")),
        replace(SMALL, gates=()),
        BIG,
    ],
    ids=["priority", "older", "size that does not stand there", "elsewhere", "ungated", "itself"],
)
def test_pod_that_cannot_or_may_take_it_is_not_held_back(other: Pod) -> None:
    assert held(other).own is None


def test_reservation_on_a_node_that_is_gone_holds_nobody_back() -> None:
    assert held(SMALL, (node("n2", 80),)).own is None
