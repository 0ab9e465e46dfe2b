"""Older first among equals, and a planner that was restarted plans what the old one would have."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from planner.model.constraints import Resources
from planner.model.nodes import NodeState
from planner.model.plan import Plan
from planner.model.pods import GATE, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.test_packing import node, pod, where
from tests.planner.test_properties import carved

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def world(
    seed: int, *, nodes: int = 4, gpus: int = 2, pods: int = 40
) -> tuple[Snapshot, list[Pod]]:
    """GPUs of four capacities on nodes of three amounts of CPU, and pods for more than all of them.

    No two pods are of one age, all are young.
    """
    dice = Random(seed)
    states: list[NodeState] = []
    for number in range(nodes):
        capacities = [dice.choice((24, 40, 48, 80)) for _ in range(gpus)]
        idle = Resources(dice.choice((8, 16, 32)) * 1000, 1 << 40)
        states.append(node(f"n{number}", *capacities, idle=idle))
    asked = [
        pod(
            f"p{number:03}",
            dice.choice((5, 10, 15, 20, 40, 30)),
            created=(NOW - timedelta(minutes=4) + timedelta(seconds=number)).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
            requests=Resources(dice.choice((500, 1000, 2000, 4000))),
            gates=(GATE,),
        )
        for number in range(pods)
    ]
    return Snapshot(tuple(states), now=NOW), asked


def inversions(snapshot: Snapshot, made: Plan) -> Iterator[str]:
    """Pods that were passed over by a younger equal in whose place they fit."""
    left = {state.node.name: state.idle.cpu_milli for state in snapshot.nodes}
    for placed in made.placements:
        left[placed.node] -= placed.pod.requests.cpu_milli
    for older in (refusal.pod for refusal in made.refusals):
        for younger in made.placements:
            cpu = left[younger.node] + younger.pod.requests.cpu_milli
            if (
                younger.pod.seats == older.seats
                and younger.pod.priority == older.priority
                and older.created < younger.pod.created
                and cpu >= older.requests.cpu_milli
            ):
                yield f"{younger.pod.name} has a place on {younger.node}, where {older.name} fits"


def many_alike(seed: int) -> tuple[Snapshot, list[Pod]]:
    """Twelve young pods of four sizes that fill the GPUs of one or two nodes badly in their order.

    So a search changes which of them are placed, and takes those that ask for the least CPU first.
    """
    dice = Random(seed)
    states: list[NodeState] = []
    for number in range(dice.randint(1, 2)):
        idle = Resources(dice.choice((8, 64, 64)) * 1000, 1 << 40)
        states.append(node(f"n{number}", dice.choice((50, 70, 80)), idle=idle))
    asked = [
        pod(
            f"p{number:02}",
            dice.choice((15, 20, 30, 35)),
            created=f"2026-01-01T11:59:{number:02}Z",
            requests=Resources(dice.choice((500, 1000, 2000, 4000))),
            priority=dice.randrange(1 + seed % 2),
            gates=(GATE,),
        )
        for number in range(12)
    ]
    return Snapshot(tuple(states), now=NOW), asked


@pytest.mark.parametrize("settled", [True, False], ids=["", "made once, as large plans are"])
def test_no_pod_is_passed_over_by_a_younger_equal_in_whose_place_it_fits(
    settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 22 of these it would be, were plans made once and nobody exchanged at their end."""
    if not settled:
        monkeypatch.setattr(sys.modules["planner.packing.plan"], "_SETTLED", 0)
    for seed in range(60):
        snapshot, pods = many_alike(seed)
        assert list(inversions(snapshot, plan(snapshot, pods))) == [], seed


def test_pod_that_could_be_planned_later_is_the_younger_one() -> None:
    """Another gate kept it: its own creation does not count."""
    early = pod("early", 50, created="2026-01-01T00:00:01Z", since="2026-01-01T00:00:09Z")
    late = pod("late", 50, created="2026-01-01T00:00:05Z")
    assert where(plan(Snapshot((node("n1", 80),)), [early, late])) == {"late": "n1"}


@pytest.mark.parametrize("solver", [False, True])
def test_plan_that_was_carried_out_is_left_alone_by_a_planner_that_remembers_nothing(
    solver: bool,
) -> None:
    for seed in range(12):
        snapshot, pods = world(seed, nodes=3, pods=20)
        made = plan(snapshot, pods, solver=solver)
        again = plan(carved(snapshot, made), pods, solver=solver)
        assert (again.layouts, len(again.placements)) == ({}, len(made.placements)), seed
