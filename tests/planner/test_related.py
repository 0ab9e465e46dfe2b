"""Plans for pods that depend on one another: each can be bound in turn, and a plan is kept to."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from planner.model.constraints import Relations, Spread, Taint
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.plan import Placement, Plan
from planner.model.pods import Pod
from planner.model.snapshot import Neighbours, Snapshot
from planner.packing import plan
from planner.state.parse import parse_pod
from tests.planner.plain_relations import plain_refusal
from tests.planner.test_packing import gb as gb_of
from tests.planner.test_packing import node, pod
from tests.planner.test_relations import app
from tests.planner.varied import HOST, node_labels, node_taints, varied_pods

SEEDS = range(42, 47)


def varied(pods: int, seed: int) -> tuple[Snapshot, list[Pod]]:
    """Twelve empty nodes of two GPUs and pods for about all of them."""
    states = []
    for index in range(12):
        name = f"n{index:02}"
        taints = tuple(Taint(t["key"], t["value"], t["effect"]) for t in node_taints(index))
        labels = {HOST: name, **node_labels(index)}
        state = node(name, 80, 80)
        states.append(replace(state, node=Node(name, labels=labels, taints=taints)))
    around = Neighbours(nodes=tuple(state.node for state in states))
    manifests = varied_pods(pods, seed)
    return Snapshot(tuple(states), neighbours=around), [parse_pod(m) for m in manifests]


def applied(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The layouts of the plan stand, and nobody is bound yet."""

    def carved(state: NodeState) -> NodeState:
        layout = made.layouts.get(state.node.name)
        if layout is None:
            return state
        gpus = [replace(gpu, free=dict(layout[gpu.uuid])) for gpu in state.gpus]
        return replace(state, gpus=tuple[Gpu, ...](gpus))

    return replace(snapshot, nodes=tuple(carved(state) for state in snapshot.nodes))


def nominated(pods: Iterable[Pod], made: Plan) -> list[Pod]:
    where = {placement.pod.key: placement.node for placement in made.placements}
    return [replace(pod, nominated=where.get(pod.key, "")) for pod in pods]


def gb(made: Plan) -> int:
    return sum(sum(placement.pod.seats) for placement in made.placements)


def left_over(placements: Iterable[Placement], nodes: Mapping[str, Node]) -> list[Placement]:
    """What can never be bound where it is planned, if one is bound after another."""
    waiting, there = list(placements), list[tuple[Pod, str]]()
    while waiting:
        able = [p for p in waiting if plain_refusal(p.pod, nodes[p.node], nodes, there) is None]
        if not able:
            break
        there.append((able[0].pod, able[0].node))
        waiting.remove(able[0])
    return waiting


@pytest.mark.parametrize("seed", SEEDS)
def test_all_that_is_planned_can_be_bound_one_after_another(seed: int) -> None:
    snapshot, pods = varied(110, seed)
    made = plan(snapshot, pods)
    nodes = {state.node.name: state.node for state in snapshot.nodes}
    assert len(made.placements) > 60
    assert left_over(made.placements, nodes) == []
    assert left_over(reversed(made.placements), nodes) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_plan_that_was_begun_is_kept_to_or_bettered(seed: int) -> None:
    snapshot, pods = varied(110, seed)
    made = plan(snapshot, pods)
    for _ in range(10):
        snapshot, pods = applied(snapshot, made), nominated(pods, made)
        again = plan(snapshot, pods)
        assert gb(again) >= gb(made)
        if gb(again) == gb(made):
            assert again.layouts == {}
            assert nominated(pods, again) == pods
            return
        made = again
    pytest.fail("each plan is better than the one before")


def test_pod_goes_elsewhere_when_its_node_can_hold_it_no_more() -> None:
    snapshot = Snapshot((node("n1", 40, free={0: gb_of({10: 1})}), node("n2", 80)))
    gone = pod("gone", 10, nominated="n3")
    small = pod("small", 60, nominated="n1")
    there = pod("there", 10, nominated="n1")
    made = plan(snapshot, [gone, small, there])
    where = {placement.pod.name: placement.node for placement in made.placements}
    assert where["small"] == "n2"
    assert where["there"] == "n1"
    assert "gone" in where


def test_pod_stays_on_its_node_although_another_fits_it_better() -> None:
    snapshot = Snapshot((node("n1", 80), node("n2", 10)))
    assert plan(snapshot, [pod("p", 10)]).placements[0].node == "n2"
    assert plan(snapshot, [pod("p", 10, nominated="n1")]).placements[0].node == "n1"


def test_pods_of_one_workload_are_spread_however_few_the_orders_that_allow_it() -> None:
    relations = Relations(spread=(Spread("host", app("web")),))
    labels = {"app": "web"}
    spread = [pod(f"s{i}", 10, labels=labels, relations=relations) for i in range(4)]
    others = [pod(f"o{i}", 10, labels=labels) for i in range(4)]
    states = tuple(node(f"n{i}", 80) for i in range(4))
    made = plan(Snapshot(states), [*others, *spread])
    assert len(made.placements) == 8
    nodes = {state.node.name: state.node for state in states}
    assert left_over(made.placements, nodes) == []
