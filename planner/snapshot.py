"""The state a plan starts from: nodes, their layouts and what is bound to them, in one record.

It is derived afresh each time from what the cluster says, so a restart or a missed event leaves
nothing behind. A node that contradicts itself is set aside, never the whole cluster.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mpslice.allocation import GpuRoom, preferred
from mpslice.gpus import MAX_SLICES_PER_GPU, DeviceId, GpuUuid
from mpslice.nodelayout import (
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
    SliceState,
)
from mpslice.slices import SliceSize
from planner.model import (
    NO_RELATIONS,
    Gpu,
    Group,
    Neighbours,
    Node,
    NodeState,
    Pod,
    Resources,
    Snapshot,
)


@dataclass(slots=True)
class _GpuCount:
    """A GPU while a node's claims are being settled."""

    uuid: GpuUuid
    index: int
    product: str
    capacity: int
    used: Counter[SliceSize] = field(default_factory=Counter)
    free: Counter[SliceSize] = field(default_factory=Counter)

    @property
    def used_gb(self) -> int:
        return sum(size * n for size, n in self.used.items())

    @property
    def uncarved_gb(self) -> int:
        return self.capacity - self.used_gb - sum(size * n for size, n in self.free.items())


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
) -> Snapshot:
    """The snapshot of the labelled `nodes`; `layouts` by node name; `pods` are all pods there are.

    `minimums` are the PodGroups' minMember by `Pod.group_key`. A node without a layout status has
    no GPUs yet. `all_nodes`, labelled or not, and the labels of `namespaces` bear on relations
    between pods. Total: bad input sets its node aside.
    """
    bound: dict[str, list[Pod]] = {}
    repelling: list[Pod] = []
    members: Counter[str] = Counter()
    for pod in pods:
        if pod.node and not pod.finished:
            bound.setdefault(pod.node, []).append(pod)
            if pod.relations is not NO_RELATIONS and pod.relations.anti_affinity:
                repelling.append(pod)
            if pod.group:
                members[pod.group_key] += 1
    minimums = minimums or {}
    states: list[NodeState] = []
    set_aside: dict[str, str] = {}
    for node in nodes:
        layout = layouts.get(node.name)
        on_node = sorted(bound.get(node.name, ()), key=lambda pod: pod.key)
        gpus = _gpu_counts(layout)
        _settle_claims(gpus, layout, on_node)
        problem = node.problem or _contradiction(gpus)
        if problem:
            set_aside[node.name] = problem
            gpus = []
        states.append(_node_state(node, gpus, on_node))
    groups = {
        key: Group(minimums.get(key), members[key]) for key in members.keys() | minimums.keys()
    }
    neighbours = Neighbours(tuple(all_nodes), bound, tuple(repelling), namespaces or {})
    return Snapshot(tuple(states), set_aside, max_slices_per_gpu, groups, now, neighbours)


def _gpu_counts(layout: NodeLayout | None) -> list[_GpuCount]:
    if layout is None or layout.status is None or not layout.status.is_true(ConditionType.READY):
        return []
    refused = spec_was_refused(layout)
    wanted = {} if refused else {gpu.uuid: gpu.slices for gpu in layout.spec.gpus}
    return [_gpu_count(gpu, wanted.get(gpu.uuid)) for gpu in layout.status.gpus if gpu.healthy]


def spec_was_refused(layout: NodeLayout) -> bool:
    """Whether the agent has seen this spec and says that it cannot apply it: then status counts."""
    status = layout.status or LayoutStatus()
    applied = status.condition(ConditionType.APPLIED)
    return (
        applied is not None
        and not applied.status
        and status.observed_generation >= layout.generation
    )


def _gpu_count(gpu: GpuStatus, wanted: Mapping[SliceSize, int] | None) -> _GpuCount:
    """What exists on a GPU: what the spec says, since that is where the agent is heading."""
    used = Counter(s.id.size for s in gpu.slices if s.state is SliceState.USED)
    standing = Counter(s.id.size for s in gpu.slices)
    total = standing if wanted is None else Counter(dict(wanted))
    return _GpuCount(gpu.uuid, gpu.index, gpu.product, gpu.capacity_gb, used, total - used)


def _settle_claims(gpus: list[_GpuCount], layout: NodeLayout | None, pods: Iterable[Pod]) -> None:
    """Gives the pods that are bound, but not seen to hold their slices yet, free ones of the size.

    The kubelet takes them in allocation order, so the same order is used here. Where none is free,
    the memory counts as held on the tightest GPU that has it: a bound pod holds what it requests.
    """
    held = _held_by_pod(layout)
    anonymous = held.pop("", Counter())  # allocated, and it is not known yet for whom
    for pod in pods:
        missing = Counter(pod.seats) - held.get(pod.key, Counter())
        known = missing & anonymous
        anonymous -= known
        for size, count in sorted((missing - known).items()):
            for _ in range(count):
                _hold(gpus, size)


def _hold(gpus: Iterable[_GpuCount], size: SliceSize) -> None:
    gpu = _next_taken(gpus, size)
    if gpu is not None:
        gpu.free[size] -= 1
    else:
        able = [gpu for gpu in gpus if gpu.uncarved_gb >= size]
        gpu = min(able, key=lambda gpu: (gpu.uncarved_gb, gpu.index), default=None)
    if gpu is not None:
        gpu.used[size] += 1


def _next_taken(gpus: Iterable[_GpuCount], size: SliceSize) -> _GpuCount | None:
    """The GPU whose free slice of the size the kubelet takes next."""
    having = {gpu.uuid: gpu for gpu in gpus if gpu.free[size] > 0}
    rooms = {g.uuid: GpuRoom(g.index, g.capacity - g.used_gb) for g in having.values()}
    first = preferred((DeviceId(uuid, size, 0) for uuid in having), 1, rooms)
    return having[first[0].gpu] if first else None


def _held_by_pod(layout: NodeLayout | None) -> dict[str, Counter[SliceSize]]:
    """The used slices by pod; under "" those whose pod the agent does not know yet."""
    held: dict[str, Counter[SliceSize]] = {}
    if layout is not None and layout.status is not None:
        for gpu in layout.status.gpus:
            for entry in gpu.slices:
                if entry.state is SliceState.USED:
                    held.setdefault(entry.pod or "", Counter())[entry.id.size] += 1
    return held


def holders(layouts: Iterable[NodeLayout]) -> dict[str, str]:
    """The pods that hold a slice, and on which node: known before their binding is, at times."""
    return {
        entry.pod: layout.name
        for layout in layouts
        if layout.status is not None
        for gpu in layout.status.gpus
        for entry in gpu.slices
        if entry.state is SliceState.USED and entry.pod is not None
    }


def _contradiction(gpus: Iterable[_GpuCount]) -> str:
    for gpu in gpus:
        if gpu.used_gb > gpu.capacity:
            return f"{gpu.used_gb}gb are used on GPU {gpu.index}, which has {gpu.capacity}gb"
    return ""


def _node_state(node: Node, gpus: Iterable[_GpuCount], pods: Iterable[Pod]) -> NodeState:
    pods = tuple(pods)
    return NodeState(
        node=node,
        gpus=tuple(
            Gpu(gpu.uuid, gpu.index, gpu.capacity, gpu.product, +gpu.used, +gpu.free)
            for gpu in sorted(gpus, key=lambda gpu: gpu.index)
        ),
        idle=_subtract(node.allocatable, pods),
        idle_pods=node.max_pods - len(pods),
        ports=frozenset(port for pod in pods for port in pod.ports),
    )


def _subtract(total: Resources, pods: Iterable[Pod]) -> Resources:
    cpu, memory, ephemeral = total.cpu_milli, total.memory, total.ephemeral
    extended = dict(total.extended)
    for pod in pods:
        cpu -= pod.requests.cpu_milli
        memory -= pod.requests.memory
        ephemeral -= pod.requests.ephemeral
        for name, amount in pod.requests.extended:
            extended[name] = extended.get(name, 0) - amount
    return Resources(cpu, memory, ephemeral, tuple(sorted(extended.items())))
