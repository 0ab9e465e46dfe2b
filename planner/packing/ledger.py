"""What is left of nodes and GPUs, and which pods may use it; changed in place as pods are booked.

Nothing here knows which unit is where; that is `planner/packing/state.py`.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
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


AnyCandidates = Candidates | CellCandidates


class Ledger:
    """The nodes, the GPUs and the classes of the pods; `book` and `unbook` keep them in step."""

    def __init__(self, snapshot: Snapshot, pods: Sequence[Pod]) -> None:
        """`pods` must outlive the ledger, which knows pods by identity."""
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
        self._epoch = self._epochs = 0  # within one, room only shrinks
        self._index()

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
                key, nodes = "none", []  # no GPU has slices of less than 1 gb
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
        self._begin_epoch()
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
            self._begin_epoch()
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

    def _begin_epoch(self) -> None:
        self._epochs += 1
        self._epoch = self._epochs

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
