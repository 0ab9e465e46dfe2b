"""Tries what would become of a pod on a node if the pod or the node were changed.

The planner's own `plan` answers each, on the cluster as its present plan leaves it, so that what is
said of a node or promised of a remedy is what the planner would do. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import NodeLayout, SliceState
from mpslice.slices import SliceSize
from planner.model.constraints import NO_RELATIONS, Resources
from planner.model.nodes import Gpu, NodeState
from planner.model.plan import Cause, Placement
from planner.model.pods import Pod
from planner.model.snapshot import Neighbours, Snapshot
from planner.packing import plan
from planner.view import Decision

ALONE: Final = Neighbours()

_MOST_RELATED: Final = 300
"""Nodes that are judged one by one for a pod with rules about other pods, which costs a look at
every pod of the cluster for each."""


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What one node says to one pod: the cause and what decides it; None where the pod fits."""

    node: str
    cause: Cause | None
    detail: str = ""


class Trials:
    """Trials of pods on the state that a decision leads to."""

    def __init__(self, decision: Decision) -> None:
        self._after = carried_out(decision)
        self._kept = {r.node: r for r in decision.plan.reservations}
        self._states = {state.node.name: state for state in self._after.nodes}

    @property
    def states(self) -> Mapping[str, NodeState]:
        """The nodes by name, with everything booked that has a place already."""
        return self._states

    def bound(self, node: str) -> tuple[Pod, ...]:
        """The pods on a node, those on their way to it included."""
        return tuple(self._after.neighbours.pods.get(node, ()))

    def verdicts(self, pod: Pod) -> list[NodeVerdict]:
        """Judges all nodes, or the first `_MOST_RELATED` for a pod with rules about other pods."""
        names = sorted(self._states)
        if self._is_related(pod):
            names = names[:_MOST_RELATED]
        return [self.verdict(pod, self._states[name]) for name in names]

    def verdict(self, pod: Pod, state: NodeState) -> NodeVerdict:
        """What the node, in this state, says to the pod alone, without its group."""
        name = state.node.name
        lone = replace(pod, group="", min_member=None, nominated="", gates=())
        made = plan(replace(self._snapshot(pod), nodes=(state,)), [lone])
        if made.placements:
            kept = self._kept.get(name)
            if kept is not None and kept.pod.uid != pod.uid:
                return NodeVerdict(name, Cause.RESERVED, f"kept for {kept.pod.key}")
            return NodeVerdict(name, None)
        if not made.refusals or not made.refusals[0].causes:
            return NodeVerdict(name, Cause.NOT_READY)
        refusal = made.refusals[0]
        cause = refusal.causes[0][0]
        detail = dict(refusal.details).get(cause, "")
        if cause is Cause.GPU_MEMORY and refusal.hole is not None:
            gb, _, index = refusal.hole
            detail = "; ".join(filter(None, (f"largest hole {gb}gb on GPU {index}", detail)))
        return NodeVerdict(name, cause, detail)

    def fits(self, pod: Pod, state: NodeState) -> bool:
        """Whether the pod alone has a place on the node in this state."""
        return self.verdict(pod, state).cause is None

    def place(self, pod: Pod) -> Placement | None:
        """Where the pod alone would go now, None where it fits nowhere."""
        free = tuple(s for name, s in self._states.items() if name not in self._kept)
        lone = replace(pod, group="", min_member=None, nominated="", gates=())
        made = plan(replace(self._snapshot(pod), nodes=free), [lone])
        return made.placements[0] if made.placements else None

    def _is_related(self, pod: Pod) -> bool:
        return pod.relations is not NO_RELATIONS or bool(self._after.neighbours.repelling)

    def _snapshot(self, pod: Pod) -> Snapshot:
        related = self._is_related(pod)
        return Snapshot(
            max_slices_per_gpu=self._after.max_slices_per_gpu,
            neighbours=self._after.neighbours if related else ALONE,
        )


def carried_out(decision: Decision) -> Snapshot:
    """The cluster once every placement of the plan is carried out."""
    snapshot, made = decision.snapshot, decision.plan
    placed: dict[str, list[Placement]] = {}
    for placement in made.placements:
        placed.setdefault(placement.node, []).append(placement)
    if not placed:
        return snapshot
    states = (
        _with(state, placed[state.node.name], made.layouts.get(state.node.name))
        if state.node.name in placed
        else state
        for state in snapshot.nodes
    )
    pods = dict(snapshot.neighbours.pods)
    repelling = list(snapshot.neighbours.repelling)
    for node, placements in placed.items():
        new = [replace(p.pod, node=node) for p in placements]
        pods[node] = (*pods.get(node, ()), *new)
        repelling += (pod for pod in new if pod.relations.anti_affinity)
    neighbours = replace(snapshot.neighbours, pods=pods, repelling=tuple(repelling))
    return replace(snapshot, nodes=tuple(states), neighbours=neighbours)


def _with(
    state: NodeState,
    placements: Iterable[Placement],
    layout: Mapping[GpuUuid, Mapping[SliceSize, int]] | None,
) -> NodeState:
    claims: dict[GpuUuid, Counter[SliceSize]] = {}
    placements = list(placements)
    for placement in placements:
        for gpu, size in zip(placement.gpus, placement.pod.seats, strict=True):
            claims.setdefault(gpu, Counter())[size] += 1

    def gpu_after(gpu: Gpu) -> Gpu:
        used = Counter(gpu.used) + claims.get(gpu.uuid, Counter())
        stands = Counter(gpu.used) + Counter(gpu.free) if layout is None else layout.get(gpu.uuid)
        free = Counter(stands or {})
        free.subtract(used)
        return replace(gpu, used=dict(used), free=dict(+free))

    return replace(
        state,
        gpus=tuple(gpu_after(gpu) for gpu in state.gpus),
        idle=_less(state.idle, [p.pod.requests for p in placements], 1),
        idle_pods=state.idle_pods - len(placements),
        ports=state.ports.union(*(p.pod.ports for p in placements)),
    )


def without(state: NodeState, pods: Iterable[Pod], held: Mapping[str, list[GpuUuid]]) -> NodeState:
    """The node once these pods have ended; `held` is, by pod, the GPU of each of its seats."""
    pods = list(pods)
    gone: dict[GpuUuid, Counter[SliceSize]] = {}
    for pod in pods:
        for gpu, size in zip(held.get(pod.key, ()), sorted(pod.seats), strict=False):
            gone.setdefault(gpu, Counter())[size] += 1
    ports = frozenset(port for pod in pods for port in pod.ports)
    return replace(
        state,
        gpus=tuple(
            replace(gpu, used=dict(Counter(gpu.used) - gone.get(gpu.uuid, Counter())))
            for gpu in state.gpus
        ),
        idle=_less(state.idle, [pod.requests for pod in pods], -1),
        idle_pods=state.idle_pods + len(pods),
        ports=state.ports - ports,
    )


def _less(idle: Resources, requests: Iterable[Resources], sign: int) -> Resources:
    requests = list(requests)
    extended = Counter(dict(idle.extended))
    for each in requests:
        for name, amount in each.extended:
            extended[name] -= sign * amount
    return Resources(
        idle.cpu_milli - sign * sum(each.cpu_milli for each in requests),
        idle.memory - sign * sum(each.memory for each in requests),
        idle.ephemeral - sign * sum(each.ephemeral for each in requests),
        tuple(sorted(extended.items())),
    )


def gpus_held(layout: NodeLayout | None) -> dict[str, list[GpuUuid]]:
    """By pod, the GPUs of its slices on a node, the smallest slice first."""
    if layout is None or layout.status is None:
        return {}
    found: dict[str, list[tuple[SliceSize, GpuUuid]]] = {}
    for gpu in layout.status.gpus:
        for entry in gpu.slices:
            if entry.state is SliceState.USED and entry.pod:
                found.setdefault(entry.pod, []).append((entry.id.size, gpu.uuid))
    return {pod: [uuid for _, uuid in sorted(held)] for pod, held in found.items()}
