"""The state a plan starts from: nodes, their layouts and what is bound to them, in one record.

It is derived afresh each time from what the cluster says, so a restart or a missed event leaves
nothing behind. A node that contradicts itself is set aside, never the whole cluster.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from mpslice.gpus import MAX_SLICES_PER_GPU
from mpslice.nodelayout import NodeLayout
from planner.model.constraints import NO_RELATIONS, Resources
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.pods import Group, Pod
from planner.model.snapshot import Neighbours, Place, Snapshot
from planner.state.known import KnownNodes
from planner.state.standing import Contradiction, gpus_of

Pods = tuple[Pod, ...]

_TWICE: Final = "the node is listed twice"


def build_snapshot(
    nodes: Iterable[Node],
    layouts: Mapping[str, NodeLayout],
    pods: Iterable[Pod],
    *,
    max_slices_per_gpu: int = MAX_SLICES_PER_GPU,
    minimums: Mapping[str, int] | None = None,
    now: datetime | None = None,
    all_nodes: Iterable[Node] = (),
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    reserving: Mapping[str, datetime] | None = None,
    known: KnownNodes | None = None,
    kept: Mapping[str, Place] | None = None,
) -> Snapshot:
    """The snapshot of the labelled `nodes`; `layouts` by node name; `pods` are all pods there are.

    `minimums` are the PodGroups' minMember by `Pod.group_key`. A node without a layout status has
    no GPUs yet. `all_nodes`, labelled or not, and the labels of `namespaces` bear on relations
    between pods. `reserving` and `kept` are as in Snapshot. `known` is what earlier snapshots found
    out.
    Total: bad input sets its node aside.
    """
    bound: dict[str, list[Pod]] = {}
    nominees: dict[str, list[Pod]] = {}
    repelling: list[Pod] = []
    members: Counter[str] = Counter()
    placed: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.group and _needs_no_place(pod):
            members[pod.group_key] += 1
            if pod.node and pod.claims and not pod.finished:
                placed.setdefault(pod.group_key, []).append(pod)
        if pod.node and not pod.finished:
            bound.setdefault(pod.node, []).append(pod)
            if pod.relations is not NO_RELATIONS and pod.relations.anti_affinity:
                repelling.append(pod)
        elif pod.nominated and _keeps_room(pod):
            nominees.setdefault(pod.nominated, []).append(pod)
    minimums = minimums or {}
    known = known or KnownNodes()
    states: dict[str, NodeState] = {}
    set_aside: dict[str, str] = {}
    for node in nodes:
        name = node.name
        facts = (
            node,
            layouts.get(name),
            tuple(bound.get(name, ())),
            tuple(nominees.get(name, ())),
            max_slices_per_gpu,
        )
        state, problem = known.of(name, facts, _judged)
        if name in states:
            state, problem = _node_state(node, (), (*facts[2], *facts[3])), _TWICE
        if problem:
            set_aside[name] = problem
        states[name] = state
    known.forget_others(states)
    groups = {
        key: Group(minimums.get(key), members[key], tuple(placed.get(key, ())))
        for key in members.keys() | minimums.keys()
    }
    neighbours = Neighbours(tuple(all_nodes), bound, tuple(repelling), namespaces or {})
    return Snapshot(
        tuple(states.values()),
        set_aside,
        max_slices_per_gpu,
        groups,
        now,
        neighbours,
        reserving or {},
        kept=kept or {},
    )


def _judged(
    node: Node, layout: NodeLayout | None, bound: Pods, nominees: Pods, most: int
) -> tuple[NodeState, str]:
    """A node as it is to be planned on, and why it is not, "" where it is."""
    gpus: tuple[Gpu, ...] = ()
    problem = node.problem or next((pod.problem for pod in bound if pod.problem), "")
    if not problem:
        try:
            gpus = gpus_of(layout, bound, most)
        except Contradiction as contradiction:
            problem = str(contradiction)
    return _node_state(node, gpus, (*bound, *nominees)), problem


def _needs_no_place(pod: Pod) -> bool:
    """Whether a member of a group counts towards its minimum without a slice of this plan."""
    if pod.finished:
        return pod.succeeded
    return bool(pod.node) or not (pod.claims or pod.terminating)


def _keeps_room(pod: Pod) -> bool:
    """Whether the scheduler keeps the room of a nominated pod that is not planned itself.

    It does so from pods of the same or a lower priority (pkg/scheduler/framework/runtime,
    addGENominatedPods); here from all, since a nominee is bound before long.
    """
    return not (pod.node or pod.finished or pod.terminating or pod.is_pending)


def _node_state(node: Node, gpus: tuple[Gpu, ...], pods: Pods) -> NodeState:
    return NodeState(
        node=node,
        gpus=gpus,
        idle=_subtract(node.allocatable, pods),
        idle_pods=node.max_pods - len(pods),
        ports=frozenset([port for pod in pods for port in pod.ports]),
    )


def _subtract(total: Resources, pods: Iterable[Pod]) -> Resources:
    cpu, memory, ephemeral = total.cpu_milli, total.memory, total.ephemeral
    extended = dict(total.extended)
    for pod in pods:
        requests = pod.requests
        cpu -= requests.cpu_milli
        memory -= requests.memory
        ephemeral -= requests.ephemeral
        for name, amount in requests.extended:
            extended[name] = extended.get(name, 0) - amount
    return Resources(cpu, memory, ephemeral, tuple(sorted(extended.items())))
