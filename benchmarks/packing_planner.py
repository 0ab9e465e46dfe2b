"""The planner as the packing benchmark calls it, and a cluster once a plan is applied."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.model.constraints import Resources
from planner.model.nodes import Gpu, NodeState
from planner.model.plan import Placement, Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan

OURS: Final = {False: "mpslice", True: "mpslice + solver"}


def planned(snapshot: Snapshot, pods: Iterable[Pod], *, solver: bool) -> Plan:
    """One plan, with or without the solver."""
    return plan(snapshot, pods, solver=solver)


def applied(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The cluster once the agents have carved the layouts and the placed pods hold their slices."""
    placed: dict[str, list[Placement]] = {}
    for placement in made.placements:
        placed.setdefault(placement.node, []).append(placement)
    changing = placed.keys() | made.layouts.keys()
    nodes = (
        _applied(state, made, placed.get(state.node.name, ()))
        if state.node.name in changing
        else state
        for state in snapshot.nodes
    )
    return replace(snapshot, nodes=tuple(nodes))


def _applied(state: NodeState, made: Plan, placed: Sequence[Placement]) -> NodeState:
    taken: dict[str, Counter[SliceSize]] = {}
    for placement in placed:
        for uuid, size in zip(placement.gpus, placement.pod.seats, strict=True):
            taken.setdefault(uuid, Counter())[size] += 1
    layout = made.layouts.get(state.node.name, {})
    gpus = (_carved(gpu, layout.get(gpu.uuid), taken.get(gpu.uuid)) for gpu in state.gpus)
    pods = [placement.pod for placement in placed]
    return replace(
        state,
        gpus=tuple(gpus),
        idle=_without(state.idle, pods),
        idle_pods=state.idle_pods - len(pods),
        ports=state.ports.union(*(pod.ports for pod in pods)),
    )


def _carved(gpu: Gpu, layout: Slices | None, taken: Counter[SliceSize] | None) -> Gpu:
    before = Counter(gpu.used) + Counter(gpu.free)
    standing = before if layout is None else Counter(dict(layout))
    used = Counter(gpu.used) + (taken or Counter())
    return replace(gpu, used=dict(used), free=dict(standing - used))


def _without(idle: Resources, pods: Iterable[Pod]) -> Resources:
    extended = Counter(dict(idle.extended))
    cpu, memory, ephemeral = idle.cpu_milli, idle.memory, idle.ephemeral
    for pod in pods:
        cpu -= pod.requests.cpu_milli
        memory -= pod.requests.memory
        ephemeral -= pod.requests.ephemeral
        extended.subtract(dict(pod.requests.extended))
    return Resources(cpu, memory, ephemeral, tuple(sorted(extended.items())))


@dataclass(frozen=True, slots=True)
class Batched:
    """What came of pods that arrived in batches."""

    placed_gb: int
    unplaced: int
    node_writes: int
    withdrawn: int


def in_batches(snapshot: Snapshot, pods: Sequence[Pod], size: int, *, solver: bool) -> Batched:
    """Plans `size` new pods at a time, those left over with the next ones; nothing ever ends."""
    placed_gb = writes = withdrawn = 0
    waiting: list[Pod] = []
    for start in range(0, len(pods), size):
        waiting += pods[start : start + size]
        made = planned(snapshot, waiting, solver=solver)
        snapshot = applied(snapshot, made)
        gone = {placement.pod.key for placement in made.placements}
        placed_gb += sum(sum(placement.pod.seats) for placement in made.placements)
        waiting = [pod for pod in waiting if pod.key not in gone]
        writes += len(made.layouts)
        withdrawn += made.withdrawn
    return Batched(placed_gb, len(waiting), writes, withdrawn)
