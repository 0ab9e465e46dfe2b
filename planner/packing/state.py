"""The state of a plan in the making: which unit is where, and what is left of nodes and GPUs.

One state, changed in place. Every change of a unit's place is written into a journal, so that
whatever was tried can be taken back: `checkpoint`, changes, then `rollback` or nothing.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from mpslice.slices import SliceSize
from planner.feasibility.relations import RelationBook
from planner.model.nodes import Layout
from planner.model.plan import Placement
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing.books import NOTHING, GpuBook, NodeBook
from planner.packing.candidates import Candidates, Levels
from planner.packing.classes import PodClass, classes_of
from planner.packing.order import Unit
from planner.packing.reach import Reach
from planner.packing.topology import CellCandidates, related


@dataclass(slots=True, eq=False)  # frozen it would take three times as long to make
class Seating:
    """A pod on a node; `gpus` by seat."""

    pod: Pod
    pods: PodClass
    node: NodeBook
    gpus: tuple[GpuBook, ...]

    @property
    def placement(self) -> Placement:
        gpus = self.gpus
        uuids = (gpus[0].uuid,) if len(gpus) == 1 else tuple([gpu.uuid for gpu in gpus])
        # As Placement(…) does it, without its detour through Python: it is done for every pod.
        return tuple.__new__(Placement, (self.pod, self.node.name, uuids))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what is left on a node: of each GPU the gb and slices, and of the node itself.

    `spread` is the spread group of the pod that it is kept for.
    """

    node: NodeBook
    gpus: tuple[tuple[GpuBook, int, int], ...]
    cpu: int = 0
    memory: int = 0
    ephemeral: int = 0
    pods: int = 0
    extended: tuple[tuple[str, int], ...] = ()
    spread: str = ""


Seatings = Sequence[Seating]
AnyCandidates = Candidates | CellCandidates

_RANK_BITS = 40  # of a value: no rank's GB reach into those of the rank before


class State:
    """Units by number, in planned order; `placed` has their seatings, () where there are none."""

    def __init__(self, snapshot: Snapshot, pods: Sequence[Pod], units: Sequence[Unit]) -> None:
        """`pods` must outlive the state, which knows pods by identity."""
        self.units = units
        self.nodes = _load(snapshot)
        self.relations = RelationBook(snapshot, pods)
        self.classes, self._class_of = classes_of(pods, self.relations)
        self.wanted = _wanted(self.classes)
        self.free: dict[SliceSize, list[GpuBook]] = {}
        """GPUs with free slices of a size at the start."""
        self.standing_nodes = [node for node in self.nodes if node.standing]
        for node in self.standing_nodes:
            for gpu in node.gpus:
                for size in gpu.free:
                    self.free.setdefault(size, []).append(gpu)
        self.standing = bool(self.free)
        self._index()
        self.placed: list[Seatings] = [()] * len(units)
        self.after: dict[int, int] = {}
        """The group that has to be placed first, by unit."""
        self.further: dict[int, list[int]] = {}
        """By group, the units that may be placed after it."""
        later = [number for number, unit in enumerate(units) if unit.after is not None]
        numbers = {id(unit): number for number, unit in enumerate(units)} if later else {}
        for number in later:
            group = self.after[number] = numbers[id(units[number].after)]
            self.further.setdefault(group, []).append(number)
        self._divided: set[int] = set()  # groups that were placed once
        self.on: list[dict[int, None]] = [{} for _ in self.nodes]  # units by node order
        self.fixed: set[int] = set()  # units that are under way: nobody moves them any more
        self._journal: list[tuple[int, Seatings]] = []
        self._epoch = self._epochs = 0  # within one, room only shrinks
        self.rank: list[int] = []
        self.ranks = 0
        for _, alike in groupby(units, key=attrgetter("rank")):
            self.rank += [self.ranks for _ in alike]
            self.ranks += 1

    def _index(self) -> None:
        self._levels = levels = Levels(self.classes)
        for node in self.nodes:
            node.level = levels.of(node)
        self.reach = Reach(self.nodes, [each.pod for each in self.classes])
        sharing = Counter(
            (each.pod.constraints, each.common)
            for each in self.classes
            for _ in range(min(each.pods, 2))
            if each.common
        )
        known: dict[Hashable, AnyCandidates] = {}
        self._candidates: list[AnyCandidates] = []
        for each in self.classes:
            each.level = levels.at(each.cpu, each.memory)
            key, nodes = self.reach.of(each.pod.constraints)
            if min(each.seats) < 1:
                key, nodes = "none", []  # there is no such slice
            private = bool(each.common) and sharing[each.pod.constraints, each.common] > 1
            whole = (key, each.common) if private else key
            if whole not in known:
                if private and each.demands is not None:
                    known[whole] = related(each.demands, nodes, levels.count)
                else:
                    known[whole] = Candidates(nodes, levels.count, private=private)
            self._candidates.append(known[whole])

    def class_of(self, pod: Pod) -> PodClass:
        """The class of a pending pod."""
        return self._class_of[id(pod)]

    def candidates(self, pods: PodClass) -> AnyCandidates:
        """The GPUs that pods of the class may use."""
        return self._candidates[pods.number]

    def moment(self, pods: PodClass) -> Hashable:
        """Equal as long as a pod of the class that fits nowhere still fits nowhere."""
        if pods.demands is None:
            return self._epoch
        return self._epoch, pods.demands.version

    # Booking

    def book(self, pod: Pod, pods: PodClass, node: NodeBook, gpus: tuple[GpuBook, ...]) -> Seating:
        """Gives the pod its slices on these GPUs, by seat; the caller has seen that they fit."""
        pods.take(node)
        cpu, memory = self._levels.floors[node.level]
        if node.cpu < cpu or node.memory < memory or node.pods < 1:
            self._relevel(node)
        if self.relations.active:
            self.relations.add(pod, node.name)
        if pods.single:
            _change(gpus[0], gpus[0].claim, pods.largest)
        else:
            for size, gpu in zip(pods.seats, gpus, strict=True):
                _change(gpu, gpu.claim, size)
        if pods.spread:
            _mark(pods, gpus)
        return Seating(pod, pods, node, gpus)

    def unbook(self, seating: Seating) -> None:
        """Takes a seating back, whatever was booked after it."""
        self._epochs += 1
        self._epoch = self._epochs
        for size, gpu in zip(seating.pods.seats, seating.gpus, strict=True):
            _change(gpu, gpu.unclaim, size)
        if seating.pods.spread:
            _mark(seating.pods, seating.gpus, -1)
        node = seating.node
        seating.pods.take(node, -1)
        self._freed(node)
        if self.relations.active:
            self.relations.remove(seating.pod, node.name)

    def hold(self, seating: Seating, sign: int = 1) -> None:
        """Keeps what the pod of a seating needs from all others, whether it is there yet or not."""
        for size, gpu in zip(seating.pods.seats, seating.gpus, strict=True):
            _change(gpu, lambda size, gpu=gpu: gpu.hold(sign * size, sign), size)  # type: ignore[misc]
        seating.pods.take(seating.node, sign)
        if seating.pods.spread:
            _mark(seating.pods, seating.gpus, sign)
        self._held(seating.node, sign)

    def keep(self, part: Part, sign: int = 1) -> None:
        """Keeps a part of what is left on a node from all others."""
        node = part.node
        for gpu, gb, slices in part.gpus:
            _change(gpu, lambda _, gpu=gpu, gb=gb, n=slices: gpu.hold(sign * gb, sign * n), gpu)  # type: ignore[misc,arg-type]
            if part.spread:
                gpu.mark(part.spread, sign)
        node.cpu -= sign * part.cpu
        node.memory -= sign * part.memory
        node.ephemeral -= sign * part.ephemeral
        node.pods -= sign * part.pods
        for name, amount in part.extended:
            node.extended[name] = node.extended.get(name, 0) - sign * amount
        self._held(node, sign)

    def _held(self, node: NodeBook, sign: int) -> None:
        self._relevel(node)
        if sign < 0:
            self._epochs += 1
            self._epoch = self._epochs
            self._freed(node)

    def _freed(self, node: NodeBook) -> None:
        cpu, memory = self._levels.ceilings[node.level]
        if node.level == 0 or (node.cpu >= cpu and node.memory >= memory):
            self._relevel(node)
        for index in [*node.blocked_in]:
            index.unblock(node)

    def _relevel(self, node: NodeBook) -> None:
        """Has the node's GPUs indexed by what it has left now."""
        level = self._levels.of(node)
        if level == node.level:
            return
        for index in node.indexes:
            for gpu in node.gpus:
                index.remove(gpu)
        node.level = level
        for index in node.indexes:
            for gpu in node.gpus:
                index.add(gpu)

    # Placing units, with a journal

    def put(self, number: int, seatings: Seatings) -> None:
        """Notes where a unit is whose pods have been booked; none of its pods were before."""
        self._journal.append((number, self.placed[number]))
        self.placed[number] = seatings
        for seating in seatings:
            self.on[seating.node.order][number] = None
        if self.further and number in self.further:
            self._divided.add(number)

    def members(self, number: int) -> list[Pod]:
        """The pods of which a group may choose those that it needs: until it was placed once, the
        further ones as well.
        """
        pods = list(self.units[number].pods)
        if number not in self._divided:
            pods += [self.units[each].pods[0] for each in self.further.get(number, ())]
        return pods

    def divide(self, number: int, chosen: Sequence[Pod]) -> None:
        """Makes these of its members the ones that a group needs."""
        taken = Counter(map(id, chosen))  # a pod that was given twice is two members
        others = []
        for pod in self.members(number):
            if taken[id(pod)]:
                taken[id(pod)] -= 1
            else:
                others.append(pod)
        for each, pod in zip(self.further.get(number, ()), others, strict=True):
            self.units[each].pods = (pod,)
        self.units[number].pods = tuple(chosen)

    def fix(self, numbers: Iterable[int]) -> None:
        """Has nobody move the units any more, nor the groups that had to be placed before them."""
        for number in numbers:
            self.fixed.update((number, self.after.get(number, number)))

    def unassign(self, number: int) -> Seatings:
        """Takes a unit from where it is; returns its seatings."""
        seatings = self.placed[number]
        if seatings:
            self._journal.append((number, seatings))
            self._leave(number)
        return seatings

    def _leave(self, number: int) -> None:
        for seating in self.placed[number]:
            self.unbook(seating)
            self.on[seating.node.order].pop(number, None)
        self.placed[number] = ()

    def checkpoint(self) -> tuple[int, int]:
        """What `rollback` goes back to."""
        mark = len(self._journal), self._epoch
        self._epochs += 1
        self._epoch = self._epochs
        return mark

    def rollback(self, mark: tuple[int, int]) -> list[int]:
        """Has every unit where it was at the checkpoint; returns those that had moved."""
        length, epoch = mark
        before = dict(reversed(self._journal[length:]))  # the first change of each counts
        del self._journal[length:]
        moved = [number for number in before if self.placed[number] is not before[number]]
        for number in moved:
            self._leave(number)
        for number in moved:
            seatings = before[number]
            for s in seatings:
                self.book(s.pod, s.pods, s.node, s.gpus)
                self.on[s.node.order][number] = None
            self.placed[number] = seatings
        self._epoch = epoch
        return moved

    # What a unit is worth, and what may be done with it

    def value(self, number: int) -> int:
        """GB of the unit's placed slices, those of a higher rank above all of the lower ones.

        Values add up, and sums of them compare as plans do.
        """
        gb = sum(seating.pods.gb for seating in self.placed[number])
        return self.worth(number, gb)

    def worth(self, number: int, gb: int) -> int:
        """What so many GB of the unit are worth."""
        return gb << _RANK_BITS * (self.ranks - 1 - self.rank[number])

    def gb_of_first_rank(self, value: int) -> int:
        """The GB of the highest rank that a value has any of."""
        while value >> _RANK_BITS:
            value >>= _RANK_BITS
        return value

    def total(self, numbers: Iterable[int]) -> int:
        """The value of these units together."""
        return sum([self.value(number) for number in numbers if self.placed[number]])

    def gb_by_rank(self, numbers: Iterable[int]) -> list[int]:
        """GB of these units' placed slices, by rank."""
        found = [0] * self.ranks
        for number in numbers:
            found[self.rank[number]] += sum([s.pods.gb for s in self.placed[number]])
        return found

    def may_go(self, number: int) -> bool:
        """Whether the unit may be placed: all its pods are there, and so is the group before it."""
        unit, group = self.units[number], self.after.get(number)
        return len(unit.pods) >= unit.needed and (group is None or bool(self.placed[group]))

    def is_alone(self, number: int) -> bool:
        """Whether the unit is a lone pod that may be moved by itself: it has no group that waits or
        is spread, and no other unit depends on its place.
        """
        if self.units[number].needed > 1 or number in self.further or not self.may_go(number):
            return False
        if self.units[number].pods[0].spread:
            return False
        if not self.relations.active:
            return True
        pod = self.units[number].pods[0]
        return self.class_of(pod).demands is None and not self.relations.counts(pod)

    def is_movable(self, number: int) -> bool:
        """Whether a search may place the unit elsewhere or not at all: a lone pod of one slice."""
        if number in self.fixed or not self.is_alone(number):
            return False
        pods = self.class_of(self.units[number].pods[0])
        return pods.single and pods.largest > 0

    # What comes of it

    def layout(self, node: NodeBook) -> Layout:
        """Every slice that is to exist on the node's GPUs: used, claimed, and free ones that stay.

        Of a GPU on which nothing is carved, that is what stands there.
        """
        return {gpu.uuid: gpu.layout(self.wanted) for gpu in node.gpus}

    def withdrawn(self, nodes: Iterable[NodeBook] | None = None) -> int:
        """How many free slices have to go for all that is placed (on these nodes)."""
        if not self.standing:
            return 0
        touched = (node for node in (self.nodes if nodes is None else nodes) if node.carved)
        return sum(len(gpu.withdrawn(self.wanted)) for node in touched for gpu in node.gpus)

    def dissolve(self) -> None:
        """Ends the state: nodes, GPUs and indexes refer to each other no more and go at once.

        The collector would take a tenth of a large plan's time to find them.
        """
        for node in self.nodes:
            node.indexes.clear()
            node.blocked_in.clear()
            node.gpus.clear()
        for each in self.classes:
            if each.demands is not None:
                each.demands.deafen()


def _change(gpu: GpuBook, change: Callable[[SliceSize], None], size: SliceSize) -> None:
    indexes = gpu.node.indexes
    if gpu.free is NOTHING:  # as mostly
        before = gpu.uncarved
        change(size)
        for index in indexes:
            index.moved(gpu, before)
        return
    for index in indexes:
        index.remove(gpu)
    change(size)
    for index in indexes:
        index.add(gpu)


def _mark(pods: PodClass, gpus: Iterable[GpuBook], sign: int = 1) -> None:
    for gpu in gpus:
        gpu.mark(pods.spread, sign)


def _wanted(classes: Iterable[PodClass]) -> Counter[SliceSize]:
    """How many slices of each size the pods ask for."""
    wanted: Counter[SliceSize] = Counter()
    for each in classes:
        for size in each.seats:
            wanted[size] += each.pods
    return wanted


_by_index = attrgetter("index", "uuid")


def _load(snapshot: Snapshot) -> list[NodeBook]:
    limit = snapshot.max_slices_per_gpu
    nodes: list[NodeBook] = []
    order = 0
    states = sorted(snapshot.nodes, key=lambda state: state.node.name)
    for number, state in enumerate(states):
        node = NodeBook(state, number)
        nodes.append(node)
        for gpu in sorted(state.gpus, key=_by_index):
            node.gpus.append(GpuBook(gpu, node, order, limit))
            order += 1
    return nodes
