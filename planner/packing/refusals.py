"""Why the rest cannot be placed: for each class, how many nodes fail for which cause.

Counted in the state that the plan leads to, by the filters that made the plan. Thousands of classes
on thousands of nodes are told from sorted columns where one cause decides, and node by node only
where several do.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from planner.model.plan import Cause, Refusal
from planner.model.pods import Group, Pod
from planner.packing.books import GpuBook, NodeBook
from planner.packing.classes import PodClass
from planner.packing.filters import cpu_detail
from planner.packing.gpus import alone_on, gpu_refusal, how_many_fit, largest_room
from planner.packing.ledger import AnyCandidates
from planner.packing.order import Unit
from planner.packing.reach import Tally
from planner.packing.reserve import Held
from planner.packing.state import State

_Hole = tuple[int, str, int]
"""Negated room for a slice in gb, its node, the GPU's index: the largest sorts first."""

_Fitting = tuple[int, str]
"""Negated number of slices of a pod that fit on a node, and its name."""


@dataclass(frozen=True, slots=True)
class _Reasons:
    """What there is to say of one class; `fits` on some node, as a member of a group may."""

    causes: tuple[tuple[Cause, int], ...]
    hole: tuple[int, str, int] | None
    details: tuple[tuple[Cause, str], ...]
    reserved: str
    fits: bool


class RefusalExplainer:
    """Answers for every class; made once the plan stands, and nothing is held any more."""

    def __init__(self, state: State, held: Sequence[Held], groups: Mapping[str, Group]) -> None:
        self._state = state
        self._there = {key: group.there for key, group in groups.items()}
        self._held: dict[NodeBook, list[Held]] = {}
        for each in held:
            for seating in each.seatings:
                if each not in self._held.setdefault(seating.node, []):
                    self._held[seating.node].append(each)
        self._columns: dict[AnyCandidates, _Columns] = {}
        self._known: dict[PodClass, _Reasons] = {}

    def refusals(self, number: int) -> list[Refusal]:
        """Why the pods of a unit are not placed."""
        state, unit = self._state, self._state.units[number]
        group = state.after.get(number)
        waits_for = unit if group is None or state.placed[group] else state.units[group]
        if waits_for.needed <= 1 or not unit.pods[0].group:
            return [self._refusal(pod) for pod in unit.pods]
        return [self._of_group(waits_for, pod) for pod in unit.pods]

    def _of_group(self, unit: Unit, pod: Pod) -> Refusal:
        """Where nothing is lacking but members, or room for all at once, no node is at fault."""
        if not self._state.nodes:
            return Refusal(pod, (), None, Cause.NO_NODE)
        group, pending = f"group {pod.group}", len(unit.pods)
        if pending < unit.needed:
            lacking, there = unit.needed - pending, self._there.get(pod.group_key, 0) + pending
            note = f"{group} has {there} of {there + lacking} pods; create {lacking} more"
            return Refusal(pod, (), None, Cause.GROUP, note)
        reasons = self._reasons(pod)
        if reasons.fits or reasons.reserved:
            apart = ", each on a GPU of its own" if pod.spread else ""
            note = f"the {unit.needed} pods that {group} still needs do not all fit at once{apart}"
            return Refusal(pod, (), None, Cause.GROUP, note)
        note = f"{group} needs {unit.needed} more pods at once, and this one fits nowhere"
        return Refusal(pod, reasons.causes, reasons.hole, Cause.GROUP, note, reasons.details)

    def _refusal(self, pod: Pod) -> Refusal:
        if not self._state.nodes:
            return Refusal(pod, (), None, Cause.NO_NODE)
        reasons = self._reasons(pod)
        own = Cause.RESERVED if reasons.reserved else None
        return Refusal(pod, reasons.causes, reasons.hole, own, reasons.reserved, reasons.details)

    def _reasons(self, pod: Pod) -> _Reasons:
        pods = self._state.class_of(pod)
        known = self._known.get(pods)
        if known is None:
            known = self._known[pods] = self._find(pods)
        return known

    def _find(self, pods: PodClass) -> _Reasons:
        candidates = self._state.candidates(pods)
        tally = self._state.reach.tally(pods.pod.constraints)
        columns = self._columns.get(candidates)
        if columns is None:
            # A pod of a slice that cannot be has no candidates, and the nodes count all the same.
            _, nodes = self._state.reach.of(pods.pod.constraints)
            open_nodes = [node for node in nodes if node not in self._held and node.gpus]
            kept = [node for node in nodes if node in self._held and node.gpus]
            columns = self._columns[candidates] = _Columns(open_nodes, kept)
        count = _Count(pods, tally)
        columns.count(count)
        reserved = ""
        for node in columns.kept:
            reserved = self._count_kept(count, node, pods) or reserved
        causes = tuple((c, tally.causes[c]) for c in Cause if tally.causes[c])
        return _Reasons(causes, count.hole, tuple(count.details()), reserved, count.fits)

    def _count_kept(self, count: "_Count", node: NodeBook, pods: PodClass) -> str:
        """Counts a node where something is kept; whose that is, if the class fits but for that."""
        cause = _cause(node, pods)
        if cause is not None:
            count.add(node, cause)
            return ""
        kept = (seating for each in self._held[node] for seating in each.seatings)
        holders = sorted({s.pod.group_key or s.pod.key for s in kept if s.node is node})
        count.tally.add(Cause.RESERVED, 1)
        return f"what is left on {node.name} is kept for {' and '.join(holders)}"


def _cause(node: NodeBook, pods: PodClass) -> Cause | None:
    refused = pods.refused_by(node)
    return refused[0] if refused is not None else gpu_refusal(node, pods)


class _Count:
    """The nodes of one class by cause, and those that tell what decides it."""

    def __init__(self, pods: PodClass, tally: Tally) -> None:
        self.pods = pods
        self.tally = tally
        self.fits = False
        self._nodes: dict[Cause, list[NodeBook]] = {}
        self._largest_hole: _Hole | None = None
        self._most_cpu: int | None = None
        self._most_capacity = 0
        self._most_slices: _Fitting | None = None
        self._gpus = self._shared = 0  # of nodes that are short of GPU memory, one by one

    @property
    def hole(self) -> tuple[int, str, int] | None:
        found = self._largest_hole
        return None if found is None else (-found[0], found[1], found[2])

    def add(self, node: NodeBook, cause: Cause | None) -> None:
        """Counts a node."""
        if cause is None:
            # A member of a group that fits here alone: the node is short of room for the others.
            self.fits = True
            cause = Cause.GPU_MEMORY
        self.tally.add(cause, 1)
        if cause is Cause.GPU_MEMORY:
            gpus = alone_on(node, self.pods)
            fitting = None if self.pods.single else _fitting(node, self.pods)
            self.note_short(_hole(node, gpus) if gpus else None, fitting)
            self._gpus += len(node.gpus)
            self._shared += len(node.gpus) - len(gpus)
        if cause is Cause.GPU_TOO_SMALL:
            self.note_too_small(max(gpu.capacity for gpu in node.gpus))
        else:
            self._nodes.setdefault(cause, []).append(node)

    def lacking_cpu(self, nodes: int, most: int) -> None:
        """Counts nodes that have less CPU, the most of them so much."""
        if nodes:
            self.tally.add(Cause.CPU, nodes)
            self._most_cpu = most if self._most_cpu is None else max(most, self._most_cpu)

    def note_short(self, hole: _Hole | None, fitting: _Fitting | None = None) -> None:
        """Of nodes that are short of GPU memory, the largest hole and the most slices that fit."""
        if hole is not None:
            self._largest_hole = min(hole, self._largest_hole or hole)
        if fitting is not None:
            self._most_slices = min(fitting, self._most_slices or fitting)

    def note_too_small(self, capacity: int) -> None:
        self._most_capacity = max(self._most_capacity, capacity)

    def details(self) -> Iterable[tuple[Cause, str]]:
        """What decides each cause, in words."""
        pod = self.pods.pod
        for node in self._nodes.pop(Cause.CPU, ()):
            self._most_cpu = max(node.cpu, self._most_cpu if self._most_cpu is not None else -1)
        if self._most_cpu is not None:
            self._tell(Cause.CPU, cpu_detail(pod, self._most_cpu))
        if self.tally.causes[Cause.GPU_TOO_SMALL]:
            self._tell(Cause.GPU_TOO_SMALL, self._too_small())
        for cause, nodes in self._nodes.items():
            found = self.pods.refused_by(nodes[0])
            if found is not None and found[0] is cause:
                self._tell(cause, found[1].detail(pod, nodes))
        if self._most_slices is not None:
            fitting, name = -self._most_slices[0], self._most_slices[1]
            slices = len(self.pods.seats)
            text = f"room for {fitting} of its {slices} slices on {name}"
            self._tell(Cause.GPU_MEMORY, text)
        if self._shared:
            text = f"{self._shared} of {self._gpus} GPUs there hold a pod of its group"
            self._tell(Cause.GPU_MEMORY, text)
        return self.tally.details()

    def _too_small(self) -> str:
        if self.pods.largest > self._most_capacity or self.pods.single:
            return f"largest {self._most_capacity}gb"
        return f"not {self.pods.gb}gb on the GPUs of one node"

    def _tell(self, cause: Cause, text: str) -> None:
        if text:
            self.tally.decisive.setdefault(cause, {})[text] = None


class _Columns:
    """The nodes of some candidates by CPU left, and for each suffix what else could decide.

    `kept` are the nodes on which something is reserved; they are looked at one by one.
    """

    def __init__(self, nodes: Iterable[NodeBook], kept: Sequence[NodeBook]) -> None:
        self.kept = kept
        self.nodes = sorted(nodes, key=lambda node: node.cpu)
        self._cpu = [node.cpu for node in self.nodes]
        backwards = self.nodes[::-1]
        self._memory = _least(node.memory for node in backwards)
        self._pods = _least(node.pods for node in backwards)
        capacities = [max([gpu.capacity for gpu in node.gpus]) for node in backwards]
        self._capacity = _least(capacities)
        self._most_capacity = list(accumulate(capacities, max))
        self._slots = _least(min([gpu.limit - gpu.count for gpu in n.gpus]) for n in backwards)
        self._holes = list(accumulate(map(_hole, backwards), min))
        self._verdicts: dict[tuple[int, ...], _Verdicts] = {}

    def count(self, count: _Count) -> None:
        """Counts the causes of all nodes."""
        pods = count.pods
        first = bisect_left(self._cpu, pods.cpu)
        last = len(self.nodes) - first - 1  # where the suffix ends in the reversed columns
        if not pods.plain or pods.spread or (last >= 0 and self._lack_node(pods, last)):
            self._each(count)
            return
        count.lacking_cpu(first, self._cpu[first - 1] if first else 0)
        if last < 0:
            return
        if self._most_capacity[last] < pods.largest:
            count.tally.add(Cause.GPU_TOO_SMALL, last + 1)
            count.note_too_small(self._most_capacity[last])
        elif pods.single and not self._lack_gpus(pods, last):
            count.tally.add(Cause.GPU_MEMORY, last + 1)
            count.note_short(self._holes[last])
        else:
            verdicts = self._verdicts.get(pods.seats)
            if verdicts is None:
                verdicts = self._verdicts[pods.seats] = _Verdicts(self.nodes[::-1], pods)
            verdicts.tell(count, last)

    def _lack_node(self, pods: PodClass, last: int) -> bool:
        return self._memory[last] < pods.memory or self._pods[last] < 1

    def _lack_gpus(self, pods: PodClass, last: int) -> bool:
        """Whether more than memory may be short, or nothing at all."""
        return (
            self._capacity[last] < pods.largest
            or self._slots[last] < 1
            or -self._holes[last][0] >= pods.largest
        )

    def _each(self, count: _Count) -> None:
        for node in self.nodes:
            count.add(node, _cause(node, count.pods))


class _Verdicts:
    """What the GPUs of nodes say to pods of some slices, summed up from the first node on."""

    def __init__(self, nodes: Sequence[NodeBook], pods: PodClass) -> None:
        self._each: list[tuple[int, int, int, int, _Hole | None, _Fitting | None, int]] = []
        memory = slots = small = fits = capacity = 0
        hole: _Hole | None = None
        fitting: _Fitting | None = None
        for node in nodes:
            cause = gpu_refusal(node, pods)
            if cause is Cause.GPU_TOO_SMALL:
                small += 1
                capacity = max([capacity, *(gpu.capacity for gpu in node.gpus)])
            elif cause is Cause.GPU_SLOTS:
                slots += 1
            else:
                memory += 1
                fits += cause is None
                here = _hole(node)
                hole = min(here, hole or here)
                if not pods.single:
                    there = _fitting(node, pods)
                    fitting = min(there, fitting or there)
            self._each.append((memory, slots, small, fits, hole, fitting, capacity))

    def tell(self, count: _Count, last: int) -> None:
        """Adds the verdicts of all nodes up to this one."""
        memory, slots, small, fits, hole, fitting, capacity = self._each[last]
        count.fits |= fits > 0
        causes = (
            (Cause.GPU_MEMORY, memory),
            (Cause.GPU_SLOTS, slots),
            (Cause.GPU_TOO_SMALL, small),
        )
        for cause, nodes in causes:
            if nodes:
                count.tally.add(cause, nodes)
        if hole is not None:
            count.note_short(hole, fitting)
        if small:
            count.note_too_small(capacity)


def _least(values: Iterable[int]) -> list[int]:
    return list(accumulate(values, min))


def _hole(node: NodeBook, gpus: Sequence[GpuBook] = ()) -> _Hole:
    gpu = largest_room(gpus or node.gpus)
    return -gpu.room, node.name, gpu.index


def _fitting(node: NodeBook, pods: PodClass) -> _Fitting:
    return -how_many_fit(node, pods), node.name
