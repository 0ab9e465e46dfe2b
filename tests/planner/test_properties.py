"""What holds for every plan, whatever the cluster and the pods: read by a checker of its own."""

import gc
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.packing_planner import applied
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
    SliceState,
    SliceStatus,
)
from mpslice.slices import SliceSize
from planner.model.constraints import Resources
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.plan import Plan
from planner.model.pods import Group, Pod, SliceClaim
from planner.model.snapshot import Snapshot
from planner.packing import budget, plan
from planner.state.snapshot import build_snapshot
from tests.planner.checker import could_replace, violations
from tests.planner.strategies import Problem, problems

everything = problems(grouped=True, related=True)


@settings(max_examples=250, deadline=None)
@given(problem=everything, solver=st.booleans())
def test_no_plan_does_what_it_may_not(problem: Problem, solver: bool) -> None:
    """Used slices kept, nothing overfilled, all placed pods feasible together, groups whole."""
    made = plan(problem.snapshot, problem.pods, solver=solver)
    assert violations(problem.snapshot, problem.pods, made) == []


@settings(max_examples=100, deadline=None)
@given(problem=everything, dice=st.randoms(use_true_random=False), solver=st.booleans())
def test_plan_does_not_depend_on_the_order_of_anything(
    problem: Problem, dice: random.Random, solver: bool
) -> None:
    made = plan(problem.snapshot, problem.pods, solver=solver)
    other = shuffled(problem, dice)
    assert plan(other.snapshot, other.pods, solver=solver) == made


def shuffled(problem: Problem, dice: random.Random) -> Problem:
    """The same in another order: pods, nodes, GPUs and every mapping."""

    def mixed(items: Iterable[Any]) -> tuple[Any, ...]:
        found = list(items)
        dice.shuffle(found)
        return tuple(found)

    def gpu(gpu: Gpu) -> Gpu:
        return replace(gpu, used=dict(mixed(gpu.used.items())), free=dict(mixed(gpu.free.items())))

    def state(state: NodeState) -> NodeState:
        node = replace(state.node, labels=dict(mixed(state.node.labels.items())))
        return replace(state, node=node, gpus=mixed(gpu(each) for each in state.gpus))

    snapshot = problem.snapshot
    around = snapshot.neighbours
    return Problem(
        replace(
            snapshot,
            nodes=mixed(state(each) for each in snapshot.nodes),
            groups=dict(mixed(snapshot.groups.items())),
            neighbours=replace(around, nodes=mixed(around.nodes)),
        ),
        mixed(problem.pods),
    )


@settings(max_examples=150, deadline=None)
@given(problem=problems(), solver=st.booleans())
def test_no_lower_pod_holds_what_alone_would_have_admitted_a_higher_one(
    problem: Problem, solver: bool
) -> None:
    made = plan(problem.snapshot, problem.pods, solver=solver)
    for refusal in made.refusals:
        for placement in made.placements:
            if placement.pod.priority < refusal.pod.priority:
                held = f"{placement.pod.key} on {placement.node}"
                assert not could_replace(problem.snapshot, made, refusal.pod, placement), held


@settings(max_examples=100, deadline=None)
@given(problem=problems(most_pods=8), capacity=st.integers(1, 80))
def test_another_empty_node_never_lowers_what_is_placed_of_the_highest_priorities(
    problem: Problem, capacity: int
) -> None:
    """In exact mode, that is with the solver on a small cluster."""
    snapshot = replace(problem.snapshot, now=None)
    room = Resources(64_000, 1 << 40, 1 << 40)
    empty = NodeState(
        Node("extra", labels={"host": "extra", "zone": "a"}),
        (Gpu(GpuUuid("extra-0"), 0, capacity),),
        room,
    )
    larger = replace(snapshot, nodes=(*snapshot.nodes, empty))
    before = plan(snapshot, problem.pods, solver=True)
    after = plan(larger, problem.pods, solver=True)
    assert gb_by_priority(after) >= gb_by_priority(before)


def gb_by_priority(made: Plan) -> tuple[int, ...]:
    total: Counter[int] = Counter()
    for placement in made.placements:
        total[placement.pod.priority] += sum(placement.pod.seats)
    return total[2], total[1], total[0]


@settings(max_examples=150, deadline=None)
@given(problem=problems(grouped=True), solver=st.booleans())
def test_applied_plan_is_left_as_it_is(problem: Problem, solver: bool) -> None:
    """While its slices are made and its pods wait for the scheduler."""
    made = plan(problem.snapshot, problem.pods, solver=solver)
    again = plan(carved(problem.snapshot, made), problem.pods, solver=solver)
    assert again.layouts == {}
    assert whereabouts(again) == whereabouts(made)


@settings(max_examples=100, deadline=None)
@given(problem=problems(grouped=True), solver=st.booleans())
def test_nothing_is_left_to_do_once_all_placed_pods_are_bound(
    problem: Problem, solver: bool
) -> None:
    made = plan(problem.snapshot, problem.pods, solver=solver)
    refused = [refusal.pod for refusal in made.refusals]
    later = plan(bound(problem.snapshot, made), refused, solver=solver)
    # A reservation ends with the age of the unit: what bound of a group may have been the older.
    if holders(later) == holders(made):
        assert (later.placements, later.layouts) == ((), {})


@settings(max_examples=100, deadline=None)
@given(problem=problems(), dice=st.randoms(use_true_random=False), solver=st.booleans())
def test_plan_is_carried_out_whoever_is_bound_first(
    problem: Problem, dice: random.Random, solver: bool
) -> None:
    """Without reservations, which look at what is bound."""
    is_carried_out(problem, dice, solver=solver)


@settings(max_examples=100, deadline=None)
@given(problem=problems(grouped=True), dice=st.randoms(use_true_random=False), solver=st.booleans())
def test_plan_with_groups_that_need_all_their_pods_is_carried_out(
    problem: Problem, dice: random.Random, solver: bool
) -> None:
    pods = tuple(replace(pod, min_member=None) for pod in problem.pods)
    is_carried_out(Problem(replace(problem.snapshot, groups={}), pods), dice, solver=solver)


def is_carried_out(problem: Problem, dice: random.Random, *, solver: bool) -> None:
    """Some of the pods are bound; the next plan leaves the others where they are."""
    snapshot = replace(problem.snapshot, now=None)
    made = plan(snapshot, problem.pods, solver=solver)
    first = dice.sample(made.placements, dice.randint(0, len(made.placements)))
    gone = {placement.pod.uid for placement in first}
    begun = bound(snapshot, replace(made, placements=tuple(first)))
    waiting = [pod for pod in problem.pods if pod.uid not in gone]
    again = plan(begun, waiting, solver=solver)
    assert again.layouts == {}
    assert whereabouts(again) == {p for p in whereabouts(made) if p[0] not in gone}


def holders(made: Plan) -> set[str]:
    return {reservation.pod.uid for reservation in made.reservations}


def whereabouts(made: Plan) -> set[tuple[str, str]]:
    return {(placement.pod.uid, placement.node) for placement in made.placements}


def bound(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The cluster once all placed pods are bound; they count for groups and relations too."""
    members = Counter(p.pod.group_key for p in made.placements if p.pod.group)
    groups = dict(snapshot.groups)
    for key, count in members.items():
        known = groups.get(key, Group())
        now = (p.pod for p in made.placements if p.pod.group_key == key)
        placed = (*known.placed, *now)
        groups[key] = replace(known, bound=known.bound + count, placed=placed)
    around = snapshot.neighbours
    here: dict[str, list[Pod]] = {node: list(pods) for node, pods in around.pods.items()}
    for placement in made.placements:
        here.setdefault(placement.node, []).append(replace(placement.pod, node=placement.node))
    repelling = (p for pods in here.values() for p in pods if p.relations.anti_affinity)
    neighbours = replace(around, pods=here, repelling=tuple(repelling))
    return replace(applied(snapshot, made), groups=groups, neighbours=neighbours)


def carved(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The cluster with the plan's layouts, before anybody is bound."""

    def gpu(gpu: Gpu, node: str) -> Gpu:
        if node not in made.layouts:
            return gpu
        free = Counter(made.layouts[node][gpu.uuid]) - Counter(gpu.used)
        return replace(gpu, free=dict(free))

    nodes = (
        replace(state, gpus=tuple(gpu(each, state.node.name) for each in state.gpus))
        for state in snapshot.nodes
    )
    return replace(snapshot, nodes=tuple(nodes))


@settings(max_examples=60, deadline=None)
@given(problem=problems(), dice=st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_the_order_in_which_the_cluster_is_read(
    problem: Problem, dice: random.Random
) -> None:
    nodes, layouts, bound_pods = reports(problem.snapshot)

    def planned(shuffle: Callable[[list[Any]], None]) -> Plan:
        ours, theirs, pods = list(nodes), list(layouts), [*bound_pods, *problem.pods]
        pending = list(problem.pods)
        for items in (ours, theirs, pods, pending):
            shuffle(items)
        by_name = {each.name: in_another_order(each, shuffle) for each in theirs}
        return plan(build_snapshot(ours, by_name, pods, all_nodes=ours), pending)

    assert planned(dice.shuffle) == planned(lambda items: None)


def reports(snapshot: Snapshot) -> tuple[list[Node], list[NodeLayout], list[Pod]]:
    """The cluster as nodes, agents and pods show it; not every holder is known yet."""
    nodes, layouts, pods = [], [], []
    for state in snapshot.nodes:
        name = state.node.name
        nodes.append(replace(state.node, allocatable=state.idle))
        gpus = []
        for gpu in state.gpus:
            slices: list[SliceStatus] = []
            for states, sizes in ((SliceState.USED, gpu.used), (SliceState.FREE, gpu.free)):
                for size in Counter(sizes).elements():
                    holder = f"{gpu.uuid}-{len(slices)}"
                    if states is SliceState.USED:
                        claims = (SliceClaim("main", size, 0),)
                        pods.append(Pod("default", holder, node=name, claims=claims))
                    known = f"default/{holder}" if states is SliceState.USED and size % 2 else None
                    device = DeviceId(gpu.uuid, size, len(slices))
                    slices.append(SliceStatus(device, 1, states, known))
            shown = GpuStatus(gpu.uuid, gpu.index, "", 80_000, gpu.capacity, slices=tuple(slices))
            gpus.append(shown)
        ready = Condition(ConditionType.READY, True, "Test")
        layouts.append(NodeLayout(name, status=LayoutStatus(1, tuple(gpus), (ready,))))
    return nodes, layouts, pods


def in_another_order(layout: NodeLayout, shuffle: Callable[[list[Any]], None]) -> NodeLayout:
    assert layout.status is not None
    gpus = []
    for gpu in layout.status.gpus:
        slices = list(gpu.slices)
        shuffle(slices)
        gpus.append(replace(gpu, slices=tuple(slices)))
    shuffle(gpus)
    return replace(layout, status=replace(layout.status, gpus=tuple(gpus)))


@settings(max_examples=60, deadline=None)
@given(problem=problems(grouped=True, related=True), solver=st.booleans())
def test_node_that_is_set_aside_changes_nothing_for_the_others(
    problem: Problem, solver: bool
) -> None:
    """It is of no topology domain: where one is, pods may have to spread over it as well."""
    snapshot = problem.snapshot
    bad = NodeState(Node("n1a"), (), Resources(64_000, 1 << 40))
    beside = replace(snapshot, nodes=(*snapshot.nodes, bad), set_aside={"n1a": "it is bad"})
    made = plan(snapshot, problem.pods, solver=solver)
    again = plan(beside, problem.pods, solver=solver)
    assert (again.placements, again.layouts) == (made.placements, made.layouts)
    assert violations(beside, problem.pods, again) == []


@settings(max_examples=30, deadline=None)
@given(problem=problems(grouped=True), solver=st.booleans(), late=st.booleans())
def test_plan_leaves_nothing_that_only_the_collector_finds(
    problem: Problem, solver: bool, late: bool
) -> None:
    with patch.object(budget, "SOLVER_SECONDS", 0.0 if late else budget.SOLVER_SECONDS):
        _leaves_nothing(problem, solver)


def _leaves_nothing(problem: Problem, solver: bool) -> None:
    plan(problem.snapshot, problem.pods, solver=solver)  # what is kept for the next one is made
    gc.collect(1)
    gc.freeze()  # the collector looks at what comes from here on
    gc.disable()
    try:
        plan(problem.snapshot, problem.pods, solver=solver)
        assert gc.collect() == 0
    finally:
        gc.enable()
        gc.unfreeze()


@settings(max_examples=100, deadline=None)
@given(
    problem=problems(grouped=True, most_pods=6),
    numbers=st.lists(st.integers(-90, 90), min_size=8, max_size=8),
    solver=st.booleans(),
)
def test_no_nonsense_stops_a_plan(problem: Problem, numbers: list[int], solver: bool) -> None:
    """Records that no reader makes: the plan is for nothing, but there is one."""
    first, second, third, count, capacity, index, cpu, most = numbers
    gpu = Gpu(
        GpuUuid("odd"),
        index,
        capacity,
        used={SliceSize(first): count},
        free={SliceSize(second): index},
    )
    odd = NodeState(Node("n0"), (gpu, gpu), Resources(cpu, cpu), cpu)
    claims = (SliceClaim("main", SliceSize(third), 0),)
    pod = Pod("default", "odd", claims=claims, requests=Resources(cpu, first), group="g")
    snapshot = replace(
        problem.snapshot, nodes=(*problem.snapshot.nodes, odd), max_slices_per_gpu=most
    )
    pods = (*problem.pods, pod, pod)
    made = plan(snapshot, pods, solver=solver)
    assert len(made.placements) + len(made.refusals) == len(pods)
    assert all(min(placement.pod.seats) > 0 for placement in made.placements)
