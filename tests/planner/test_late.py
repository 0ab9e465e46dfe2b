"""Pods that fit only once others are there: their rank, their room and their turn are kept."""

import pytest

from planner.model.constraints import PodTerm, Relations
from planner.model.nodes import NodeState
from planner.model.pods import Pod
from planner.model.snapshot import Neighbours, Snapshot
from planner.packing import plan
from tests.planner.checker import violations
from tests.planner.test_packing import gb, node, pod
from tests.planner.test_relations import app

NEAR_WEB = Relations(affinity=(PodTerm("host", app("web"), frozenset({"default"})),))
WEB = {"app": "web"}
solvers = pytest.mark.parametrize("solver", [False, True])


def one_node(*capacities: int) -> Snapshot:
    state: NodeState = node("n1", *capacities)
    return Snapshot((state,), neighbours=Neighbours((state.node,)))


def placed(snapshot: Snapshot, pods: list[Pod], *, solver: bool = False) -> list[str]:
    made = plan(snapshot, pods, solver=solver)
    assert violations(snapshot, pods, made) == []
    return [placement.pod.name for placement in made.placements]


def test_group_that_is_placed_in_part_takes_no_more_than_there_is() -> None:
    fields = {"group": "g", "min_member": 2, "relations": NEAR_WEB}
    group = [pod(f"g{i}", 15, created="2026-01-01T00:00:00Z", **fields) for i in range(3)]
    web = pod("web", 10, created="2026-01-02T00:00:00Z", labels=WEB)
    snapshot = one_node(40)
    made = plan(snapshot, [*group, web])
    assert made.layouts == {"n1": {"n1-0": gb({10: 1, 15: 2})}}
    assert violations(snapshot, [*group, web], made) == []


@solvers
@pytest.mark.parametrize("priority_of_web", [10, 5])
def test_lower_priority_gets_nothing_that_a_late_pod_of_a_higher_one_needs(
    priority_of_web: int, solver: bool
) -> None:
    high = pod("high", 40, priority=10, created="2026-01-01T00:00:00Z", relations=NEAR_WEB)
    web = pod("web", 10, priority=priority_of_web, labels=WEB)
    low = pod("low", 40, priority=0)
    assert placed(one_node(50), [high, web, low], solver=solver) == ["web", "high"]


def test_late_pod_stays_behind_those_that_it_waits_for_when_others_are_moved() -> None:
    late = pod("late", 10, created="2026-01-01T00:00:00Z", relations=NEAR_WEB)
    web = pod("web", 10, created="2026-01-02T00:00:00Z", labels=WEB)
    large = [pod(f"large{i}", 80, created="2026-01-03T00:00:00Z") for i in range(2)]
    names = placed(one_node(100), [late, web, *large])
    assert names.index("web") < names.index("late")
