"""Of all plans that place the most, the one that changes least: held against all ways there are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

import pytest

from planner.model.nodes import NodeState
from planner.model.plan import Plan
from planner.model.pods import GATE, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.test_packing import gb, node, pod, where

SIZES = (5, 10, 20, 40)
Cost = tuple[int, int]
"""Nodes written, free slices withdrawn."""


def instance(seed: int) -> tuple[Snapshot, list[Pod]]:
    """Up to three nodes of one or two GPUs, free slices on them, and up to four pods."""
    dice = Random(seed)
    nodes = []
    for number in range(dice.randint(1, 3)):
        capacities = [dice.choice((20, 24, 40, 48, 80)) for _ in range(dice.randint(1, 2))]
        free: dict[int, dict[int, int]] = {}
        used: dict[int, dict[int, int]] = {}
        for index, capacity in enumerate(capacities):
            left = capacity
            for _ in range(dice.randint(0, 4)):
                size = dice.choice(SIZES)
                if size <= left:
                    left -= size
                    there = (free if dice.random() < 0.7 else used).setdefault(index, {})
                    there[size] = there.get(size, 0) + 1
        name = f"n{number}"
        nodes.append(
            node(
                name,
                *capacities,
                free={index: gb(sizes) for index, sizes in free.items()},
                used={index: gb(sizes) for index, sizes in used.items()},
            )
        )
    pods = [
        pod(f"p{n}", dice.choice(SIZES), priority=dice.choice((0, 0, 5)), gates=(GATE,))
        for n in range(dice.randint(1, 4))
    ]
    return Snapshot(tuple(nodes)), pods


def optimum(snapshot: Snapshot, pods: Sequence[Pod]) -> tuple[dict[int, int], Cost]:
    """The most GB by priority, and the least cost of placing so many."""
    spots = [(state, gpu) for state in snapshot.nodes for gpu in range(len(state.gpus))]
    best: tuple[list[int], Cost] | None = None
    ranks = sorted({each.priority for each in pods}, reverse=True)
    for choice in product(range(-1, len(spots)), repeat=len(pods)):
        held: dict[int, Counter[int]] = {}
        for each, spot in zip(pods, choice, strict=True):
            if spot >= 0:
                held.setdefault(spot, Counter())[each.seats[0]] += 1
        costs = [_cost_on(*spots[spot], sizes) for spot, sizes in held.items()]
        if any(cost is None for cost in costs):
            continue
        placed = [each for each, spot in zip(pods, choice, strict=True) if spot >= 0]
        value = [sum(int(p.seats[0]) for p in placed if p.priority == rank) for rank in ranks]
        written = {
            spots[spot][0].node.name
            for spot, cost in zip(held, costs, strict=True)
            if cost is not None and cost[0]
        }
        cost = (len(written), sum(each[1] for each in costs if each is not None))
        if best is None or ([-v for v in value], cost) < ([-v for v in best[0]], best[1]):
            best = value, cost
    assert best is not None
    return dict(zip(ranks, best[0], strict=True)), best[1]


def _cost_on(state: NodeState, index: int, held: Counter[int]) -> tuple[bool, int] | None:
    """Whether slices are carved on the GPU, and how many withdrawn; None: they do not fit."""
    gpu = state.gpus[index]
    used = sum(size * count for size, count in gpu.used.items())
    claimed = sum(size * count for size, count in held.items())
    if used + claimed > gpu.capacity:
        return None
    free: Counter[int] = Counter({int(size): count for size, count in gpu.free.items()})
    left = sorted((free - held).elements(), reverse=True)
    lacking = used + claimed + sum(left) - gpu.capacity
    withdrawn = 0
    while lacking > 0:
        lacking -= left[withdrawn]
        withdrawn += 1
    return bool(held - free), withdrawn


def gb_by_priority(made: Plan, priorities: Iterator[int] | Sequence[int]) -> dict[int, int]:
    return {
        rank: sum(sum(p.pod.seats) for p in made.placements if p.pod.priority == rank)
        for rank in priorities
    }


def outcome(seed: int) -> tuple[bool, int, int]:
    """Whether the plan is an optimum; what it changes, and what the optimum changes."""
    snapshot, pods = instance(seed)
    made = plan(snapshot, pods)
    value, (written, withdrawn) = optimum(snapshot, pods)
    ours = len(made.layouts), made.withdrawn
    same = gb_by_priority(made, list(value)) == value
    return same and ours == (written, withdrawn), sum(ours), written + withdrawn


def test_plans_of_small_clusters_change_as_little_as_can_be() -> None:
    outcomes = [outcome(seed) for seed in range(80)]
    assert sum(optimal for optimal, _, _ in outcomes) >= 0.95 * len(outcomes)
    changed, least = sum(o[1] for o in outcomes), sum(o[2] for o in outcomes)
    assert changed <= 1.01 * least


def test_one_large_free_slice_is_withdrawn_rather_than_eight_small_ones() -> None:
    nodes = (node("n1", 40, free={0: gb({5: 8})}), node("n2", 45, free={0: gb({45: 1})}))
    made = plan(Snapshot(nodes), [pod("p", 40)])
    assert (where(made), made.withdrawn) == ({"p": "n2"}, 1)


@pytest.mark.parametrize("solver", [False, True])
def test_free_slices_that_others_can_take_are_left_to_them(solver: bool) -> None:
    nodes = (node("n1", 40, free={0: gb({20: 2})}), node("n2", 80, free={0: gb({10: 8})}))
    pods = [pod("high", 40, priority=10), pod("q1", 20), pod("q2", 20)]
    made = plan(Snapshot(nodes), pods, solver=solver)
    assert where(made) == {"high": "n2", "q1": "n1", "q2": "n1"}
    assert (list(made.layouts), made.withdrawn) == (["n2"], 4)


def test_one_node_is_written_for_two_pods_that_each_fit_another_more_tightly() -> None:
    nodes = (node("n1", 10), node("n2", 20), node("n3", 80))
    assert len(plan(Snapshot(nodes), [pod("a", 10), pod("b", 20)]).layouts) == 1


def test_one_empty_node_is_written_for_twelve_pods_that_fill_three() -> None:
    small = [node(f"t{n}", 15, 15, 15, 15) for n in range(3)]
    made = plan(
        Snapshot((*small, node("a100", *[80] * 8))), [pod(f"p{n:02}", 10) for n in range(12)]
    )
    assert list(made.layouts) == ["a100"]
