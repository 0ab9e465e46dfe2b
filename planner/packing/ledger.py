"""The state of a planning pass: nodes, shapes of pods and who was seated where, all reversible."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from mpslice.slices import SliceSize
from planner.feasibility.nodes import asks_for_names, label_keys, names_listed, node_refusal
from planner.feasibility.relations import RelationBook
from planner.model import Cause, Constraints, Layout, Placement, Pod, Snapshot
from planner.packing.books import NOTHING, GpuBook, NodeBook
from planner.packing.pools import Levels, Pool
from planner.packing.shapes import Shape, shapes_of


@dataclass(slots=True, eq=False)  # frozen it would take three times as long to make
class Seating:
    """A pod on a node; `gpus` by seat. `Ledger.unseat` takes it back, in any order."""

    pod: Pod
    shape: Shape
    node: NodeBook
    gpus: tuple[GpuBook, ...]

    @property
    def placement(self) -> Placement:
        gpus = self.gpus
        uuids = (gpus[0].uuid,) if len(gpus) == 1 else tuple([gpu.uuid for gpu in gpus])
        # As Placement(…) does it, without its detour through Python: it is done for every pod.
        return tuple.__new__(Placement, (self.pod, self.node.name, uuids))


class Ledger:
    """Books of all nodes, shapes of all pending pods, and the indexes that best fit asks."""

    def __init__(self, snapshot: Snapshot, pending: Sequence[Pod]) -> None:
        """`pending` must outlive the ledger, which knows pods by identity."""
        self.nodes = _load(snapshot)
        self.epoch = 0  # within one, room only shrinks
        self.planned = snapshot.planned
        self.relations = RelationBook(snapshot, pending)
        self._shapes = shapes_of(pending, self.relations)
        self.shapes = [*dict.fromkeys(self._shapes.values())]
        self.wanted = _wanted(self._shapes.values())
        # Whether any pod has a place from before, which is told for all at once.
        self.homes = bool(snapshot.planned) or any(pod.nominated for pod in pending)
        self.standing = any(node.standing for node in self.nodes)
        self._index(self.shapes)

    def _index(self, shapes: list[Shape]) -> None:
        self._levels = Levels(shapes)
        for node in self.nodes:
            node.level = self._levels.of(node.cpu, node.memory)
        self.reach = reach = Reach(self.nodes, [shape.pod for shape in shapes])
        pools: dict[object, Pool] = {}
        for shape in shapes:
            shape.level = self._levels.of(shape.cpu, shape.memory)
            key, nodes = reach.of(shape.pod.constraints)
            if min(shape.seats) < 1:
                key, nodes = "none", []  # there is no such slice
            if key not in pools:
                pools[key] = Pool(nodes, self._levels.count)
            shape.pool = pools[key]

    def node(self, name: str) -> NodeBook | None:
        """The node of the name, if there is such a labelled one."""
        return self.reach.by_name.get(name)

    def shape(self, pod: Pod) -> Shape:
        """The shape of a pending pod."""
        return self._shapes[id(pod)]

    def seat(self, pod: Pod, shape: Shape, node: NodeBook, gpus: tuple[GpuBook, ...]) -> Seating:
        """Gives the pod its slices on these GPUs, by seat; the caller has seen that they fit."""
        shape.take(node)
        cpu, memory = self._levels.floors[node.level]
        if node.cpu < cpu or node.memory < memory:
            self._relevel(node)
        if self.relations.active:
            self.relations.add(pod, node.name)
        if shape.single:
            self.claim(gpus[0], shape.largest)
        else:
            for size, gpu in zip(shape.seats, gpus, strict=True):
                self.claim(gpu, size)
        return Seating(pod, shape, node, gpus)

    def unseat(self, seating: Seating) -> None:
        """Takes a seating back, whatever was seated after it."""
        self.epoch += 1
        for size, gpu in zip(seating.shape.seats, seating.gpus, strict=True):
            self.unclaim(gpu, size)
        node = seating.node
        seating.shape.take(node, -1)
        cpu, memory = self._levels.ceilings[node.level]
        if node.cpu >= cpu and node.memory >= memory:
            self._relevel(node)
        if self.relations.active:
            self.relations.remove(seating.pod, seating.node.name)

    def claim(self, gpu: GpuBook, size: SliceSize) -> None:
        """Gives a slice on the GPU away."""
        self._change(gpu, gpu.claim, size)

    def unclaim(self, gpu: GpuBook, size: SliceSize) -> None:
        """Takes a claim back."""
        self._change(gpu, gpu.unclaim, size)

    def _change(self, gpu: GpuBook, change: Callable[[SliceSize], None], size: SliceSize) -> None:
        pools = gpu.node.pools
        if gpu.free is NOTHING:  # as mostly
            before = gpu.uncarved
            change(size)
            for pool in pools:
                pool.moved(gpu, before)
            return
        for pool in pools:
            pool.remove(gpu)
        change(size)
        for pool in pools:
            pool.add(gpu)

    def close(self, gpu: GpuBook) -> None:
        """From now on nobody gets anything on the GPU."""
        for pool in gpu.node.pools:
            pool.remove(gpu)
        gpu.close()
        for pool in gpu.node.pools:
            pool.add(gpu)

    def dissolve(self) -> None:
        """Ends the ledger: nodes, GPUs and pools refer to each other no more and go at once.

        The collector would take a tenth of a large plan's time to find them.
        """
        for node in self.nodes:
            node.pools.clear()
            node.gpus.clear()

    def _relevel(self, node: NodeBook) -> None:
        """Has the node's GPUs indexed by what it has left now."""
        level = self._levels.of(node.cpu, node.memory)
        if level == node.level:
            return
        for pool in node.pools:
            for gpu in node.gpus:
                pool.remove(gpu)
        node.level = level
        for pool in node.pools:
            for gpu in node.gpus:
                pool.add(gpu)

    def layout(self, node: NodeBook) -> Layout:
        """Every slice that is to exist on the node's GPUs: used, claimed, and free ones that stay.

        Of a GPU on which nothing is carved, that is what stands there.
        """
        return {gpu.uuid: gpu.layout(self.wanted) for gpu in node.gpus}

    def withdrawn(self) -> int:
        """How many free slices have to go for all that is seated."""
        if not self.standing:
            return 0
        touched = (node for node in self.nodes if node.carved)
        return sum(len(gpu.withdrawn(self.wanted)) for node in touched for gpu in node.gpus)


def _wanted(shapes: Iterable[Shape]) -> Counter[SliceSize]:
    """How many slices of each size the pods ask for."""
    wanted: Counter[SliceSize] = Counter()
    for shape, pods in Counter(shapes).items():
        for size in shape.seats:
            wanted[size] += pods
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


class Reach:
    """Which nodes a pod may use by their identity, found once for all pods that demand the same.

    Nodes that are alike in all that the pods ask about are judged by one of them.
    """

    def __init__(self, nodes: Sequence[NodeBook], pods: Iterable[Pod]) -> None:
        pods = list(pods)
        keys = sorted(label_keys(pods))
        self._alike: dict[object, list[NodeBook]] = {}
        self.by_name = {node.name: node for node in nodes}
        self._known: dict[Constraints, tuple[object, list[NodeBook]]] = {}
        self._causes: dict[Constraints, Counter[Cause]] = {}
        for book in nodes:
            node = book.state.node
            labels = tuple(node.labels.get(key) for key in keys)
            signature = (labels, node.taints, node.unschedulable, node.ready)
            self._alike.setdefault(signature, []).append(book)

    def of(self, constraints: Constraints) -> tuple[object, list[NodeBook]]:
        """The nodes in order, and a key that is equal where the nodes are."""
        known = self._known.get(constraints)
        if known is None:
            known = self._known[constraints] = self._find(constraints)
        return known

    def _find(self, constraints: Constraints) -> tuple[object, list[NodeBook]]:
        if asks_for_names(constraints):
            names = names_listed(constraints)
            some = self.by_name.keys() if names is None else names & self.by_name.keys()
            nodes = (self.by_name[name] for name in sorted(some))
            found = [node for node in nodes if node_refusal(constraints, node.state.node) is None]
            return tuple(node.order for node in found), found
        groups = [
            number
            for number, alike in enumerate(self._alike.values())
            if node_refusal(constraints, alike[0].state.node) is None
        ]
        return ("alike", *groups), sorted(self._in_groups(groups), key=lambda node: node.order)

    def causes(self, constraints: Constraints) -> Counter[Cause]:
        """How many nodes are out of reach for which cause; one without GPUs has no agent yet."""
        known = self._causes.get(constraints)
        if known is None:
            known = self._causes[constraints] = self._count_causes(constraints)
        return known.copy()

    def _count_causes(self, constraints: Constraints) -> Counter[Cause]:
        counts: Counter[Cause] = Counter()
        each = asks_for_names(constraints)
        for alike in self._alike.values():
            equipped = [node for node in alike if node.gpus]
            counts[Cause.NOT_READY] += len(alike) - len(equipped)
            for node in equipped if each else equipped[:1]:
                cause = node_refusal(constraints, node.state.node)
                if cause is not None:
                    counts[cause] += 1 if each else len(equipped)
        return counts

    def _in_groups(self, groups: Iterable[int]) -> Iterator[NodeBook]:
        alike = list(self._alike.values())
        return (node for group in groups for node in alike[group])
