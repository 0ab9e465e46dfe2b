"""Other orders than first come, first served, where nothing else finds a better place for a rank.

Nodes are filled anew with lone pods of one slice; who has several, or belongs to a group, is seated
better by another order only, however many there are.
"""

from collections.abc import Sequence

import pytest

from planner.model.constraints import Resources
from planner.model.pods import Group, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.test_packing import node, pod

WANTS = Resources(cpu_milli=100)
MANY = 300  # of each kind: more than a rank may have for all runs


def placed_gb(snapshot: Snapshot, pods: Sequence[Pod]) -> int:
    return sum(sum(placement.pod.seats) for placement in plan(snapshot, pods).placements)


@pytest.mark.parametrize("cpu", [0, 100])
def test_many_pods_of_several_slices_are_tried_large_first(cpu: int) -> None:
    nodes = tuple(node(f"n{number:03}", 80) for number in range(60))
    wants = Resources(cpu_milli=cpu)
    older = [pod(f"a{number:03}", 30, 20, requests=wants) for number in range(MANY)]
    younger = [pod(f"b{number:03}", 40, 40, requests=wants) for number in range(MANY)]
    assert placed_gb(Snapshot(nodes), [*older, *younger]) == 60 * 80


def test_many_pods_of_several_slices_are_tried_large_first_where_memory_lacks_cpu_too() -> None:
    starved = Resources(cpu_milli=100, memory=1 << 38)
    nodes = tuple(
        each
        for number in range(30)
        for each in (node(f"a{number:03}", 80), node(f"b{number:03}", 80, 80, idle=starved))
    )
    older = [pod(f"a{number:03}", 30, 20, requests=WANTS) for number in range(2 * MANY)]
    younger = [pod(f"b{number:03}", 40, 40, requests=WANTS) for number in range(2 * MANY)]
    assert placed_gb(Snapshot(nodes), [*older, *younger]) == 2 * 30 * 80


def test_many_groups_are_tried_large_first() -> None:
    nodes = tuple(node(f"n{number:03}", 80) for number in range(40))
    pods = [
        pod(f"{kind}{number:03}-{member}", size, group=f"{kind}{number:03}")
        for kind, size in (("a", 50), ("b", 80))
        for number in range(MANY)
        for member in range(2)
    ]
    groups = {one.group_key: Group(minimum=2) for one in pods}
    assert placed_gb(Snapshot(nodes, groups=groups), pods) == 40 * 80
