"""What is kept of nodes from one decision to the next."""

from hypothesis import given, settings

from planner.model.nodes import Node, NodeState
from planner.state.known import KnownNodes
from planner.state.snapshot import build_snapshot
from tests.planner.strategies import Problem, problems
from tests.planner.test_properties import reports


@settings(max_examples=60, deadline=None)
@given(first=problems(), second=problems())
def test_snapshot_is_the_same_whatever_was_known_before(first: Problem, second: Problem) -> None:
    known = KnownNodes()
    for problem in (first, second, second, first):
        nodes, layouts, bound = reports(problem.snapshot)
        by_name = {each.name: each for each in layouts}
        pods = [*bound, *problem.pods]
        fresh = build_snapshot(nodes, by_name, pods)
        assert build_snapshot(nodes, by_name, pods, known=known) == fresh


def test_node_is_judged_anew_where_something_about_it_differs_and_only_there() -> None:
    judged: list[object] = []

    def judge(*facts: object) -> tuple[NodeState, str]:
        judged.append(facts)
        return NodeState(Node(str(facts[0]))), ""

    known = KnownNodes()
    for facts in (("a", 1), ("a", 1), ("a", 2), ("a", 1)):
        state, _ = known.of("n1", facts, judge)
        assert state.node.name == "a"
    assert judged == [("a", 1), ("a", 2), ("a", 1)]


def test_nothing_is_kept_of_a_node_that_is_gone() -> None:
    judged: list[object] = []

    def judge(fact: str) -> tuple[NodeState, str]:
        judged.append(fact)
        return NodeState(Node(fact)), ""

    known = KnownNodes()
    for name in ("n1", "n2"):
        known.of(name, ("same",), judge)
    known.forget_others({"n1": None})
    for name in ("n1", "n2"):
        known.of(name, ("same",), judge)
    assert len(judged) == 3
