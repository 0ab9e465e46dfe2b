"""GPUs that pods of equal demands may use, indexed for best fit.

Best fit asks for the tightest GPU whose node also has the CPU and memory. GPUs are kept by level
(how much their node has left, compared with what pods ask for) and by whole gb, so that nodes that
ran out of CPU are not looked at again and again. A node that refuses all who share an index is
taken out of it (`block`) until something comes free there or, for relations between pods, changes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final

from mpslice.slices import SliceSize
from planner.packing.books import GpuBook, NodeBook
from planner.packing.classes import PodClass

_CUTS: Final = 8  # levels that tell nodes apart, beside the lowest
_LOOK: Final = 4  # how many GPUs are compared with the first that fits


class Levels:
    """How much CPU and memory a node has left, as a small number; pods are measured alike.

    A pod fits only on nodes of its own level or above: a level counts how many of the amounts that
    pods ask for (a sample of them, by rank) are at most what is left, the scarcer of the two. On
    the lowest level, that of nodes with room for no further pod, nobody looks.
    """

    def __init__(self, classes: Iterable[PodClass]) -> None:
        classes = list(classes)
        self._cpu = _cuts(each.cpu for each in classes)
        self._memory = _cuts(each.memory for each in classes)
        self.count = min(len(self._cpu), len(self._memory)) + 1
        bounds = [*zip(self._cpu, self._memory, strict=False)]
        self.floors = [(-inf, -inf), *bounds]
        """By level: a node that has less CPU or less memory is on a lower one."""
        self.ceilings = [*bounds, (inf, inf)]
        """By level: a node that has so much of both is on a higher one."""

    def of(self, node: NodeBook) -> int:
        if node.pods < 1:
            return 0
        return self.at(node.cpu, node.memory)

    def at(self, cpu: int, memory: int) -> int:
        """The level of a node that has so much left, or of a pod that asks for it."""
        return min(bisect_right(self._cpu, cpu), bisect_right(self._memory, memory))


def _cuts(amounts: Iterable[int]) -> list[int]:
    """The smallest amount and some more, at equal distances by rank."""
    distinct = sorted(set(amounts))
    step = max(1, -(-len(distinct) // _CUTS))
    return distinct[::step]


_Bucket = dict[GpuBook, None]
"""GPUs in the order in which they came. The last ones are taken first: a dict finds its last entry
at once, but its first only past all that have gone."""

_NONE: Final[_Bucket] = {}


def _leave(bucket: _Bucket, gpu: GpuBook) -> None:
    if gpu is next(reversed(bucket)):
        bucket.popitem()
    else:
        del bucket[gpu]


class _Index:
    """GPUs by an amount of gb, and those of one amount by level.

    A bit of the mask says whether there are any, at `amount * levels + level`.
    """

    __slots__ = ("_above", "_buckets", "_levels", "_mask")

    def __init__(self, levels: int, most: int) -> None:
        """`most` is the largest amount that there can be."""
        self._levels = levels
        self._buckets: dict[int, _Bucket] = {}
        self._mask = 0
        every = (1 << (max(most, 0) + 1) * levels) - 1
        lowest = every // ((1 << levels) - 1)  # a bit for each amount
        self._above = [every - lowest * ((1 << level) - 1) for level in range(levels)]

    def fill(self, nodes: Sequence[NodeBook]) -> None:
        """Begins with the GPUs of the nodes by what is uncarved; of like ones the first leads."""
        levels, buckets = self._levels, self._buckets
        for node in reversed(nodes):
            level = node.level
            for gpu in reversed(node.gpus):
                if gpu.uncarved > 0:
                    place = gpu.uncarved * levels + level
                    if place in buckets:
                        buckets[place][gpu] = None
                    else:
                        buckets[place] = {gpu: None}
        self._mask = sum(1 << place for place in buckets)

    def move(self, gpu: GpuBook, level: int, before: int, after: int) -> None:
        """Has a GPU where the other amount belongs; one of 0 or less belongs nowhere."""
        buckets = self._buckets
        if before > 0:
            place = before * self._levels + level
            bucket = buckets[place]
            if len(bucket) > 1:
                _leave(bucket, gpu)
            else:
                del buckets[place]
                self._mask ^= 1 << place
        if after > 0:
            place = after * self._levels + level
            if place in buckets:
                buckets[place][gpu] = None
            else:
                buckets[place] = {gpu: None}
                self._mask |= 1 << place

    def walk(self, pods: PodClass) -> Iterator[GpuBook]:
        """GPUs of the class's level or above with room for its largest slice, the tightest first.

        Within an amount those whose nodes have less left come first.
        """
        place = pods.largest * self._levels
        rest = (self._mask & self._above[pods.level]) >> place
        place -= 1
        while rest:
            step = (rest & -rest).bit_length()
            place += step
            rest >>= step
            yield from reversed(self._buckets[place])

    def first(self, pods: PodClass, shunned: list[NodeBook]) -> GpuBook | None:
        """The first of `walk` whose node fits, unless one as tight is soon found on a node that is
        written anyway; nodes where the pods' index need not look any more are added to `shunned`.
        """
        cpu, memory, plain = pods.cpu, pods.memory, pods.plain
        levels = self._levels
        place = pods.largest * levels - 1
        rest = (self._mask & self._above[pods.level]) >> place + 1
        found: GpuBook | None = None
        looked = tight = 0
        while rest:
            step = (rest & -rest).bit_length()
            place += step
            if found is not None and place // levels != tight:
                return found
            for gpu in reversed(self._buckets[place]):
                if looked:
                    looked += 1
                    if looked > _LOOK + 1:
                        return found
                node = gpu.node
                if node.cpu < cpu or node.memory < memory or node.pods < 1:
                    continue
                if looked and not node.carved:
                    continue
                if not plain and (obstacle := pods.obstacle(node)) is not None:
                    if obstacle.shared:
                        shunned.append(node)
                    continue
                if node.carved:
                    return gpu
                if found is None:
                    found, tight, looked = gpu, place // levels, 1
            rest >>= step
        return found


class Candidates:
    """The GPUs of some nodes. Those that change are to be taken out before and added after, or
    `moved` where nothing stood from the start.

    Where it is `private`, all who ask have in common what `shared` filters look at.
    """

    def __init__(self, nodes: Sequence[NodeBook], levels: int, *, private: bool = False) -> None:
        self.nodes = nodes
        self.orders = frozenset(node.order for node in nodes)
        gpus = [gpu for node in nodes for gpu in node.gpus]
        self.largest = max((gpu.capacity for gpu in gpus), default=0)
        self._private = private
        most = max((gpu.reclaimable for gpu in gpus), default=0)
        self._uncarved = _Index(levels, most)
        self._reclaimable = _Index(levels, most)
        self._free: dict[SliceSize, _Bucket] = {}
        self.blocked: dict[NodeBook, None] = {}
        for node in nodes:
            node.indexes.append(self)
        self._uncarved.fill(nodes)
        for gpu in reversed(gpus):
            if gpu.free:
                self._add_standing(gpu)

    def add(self, gpu: GpuBook) -> None:
        """Indexes a GPU as it is now."""
        self._uncarved.move(gpu, gpu.node.level, 0, gpu.uncarved)
        if gpu.free:
            self._add_standing(gpu)

    def _add_standing(self, gpu: GpuBook) -> None:
        self._reclaimable.move(gpu, gpu.node.level, 0, gpu.reclaimable)
        for size in gpu.free:
            self._free.setdefault(size, {})[gpu] = None

    def moved(self, gpu: GpuBook, before: int) -> None:
        """Indexes a GPU again on which nothing stood from the start, with so much uncarved then."""
        self._uncarved.move(gpu, gpu.node.level, before, gpu.uncarved)

    def remove(self, gpu: GpuBook) -> None:
        """Takes a GPU out that is as it was when it was added."""
        level = gpu.node.level
        self._uncarved.move(gpu, level, gpu.uncarved, 0)
        if gpu.free:
            self._reclaimable.move(gpu, level, gpu.reclaimable, 0)
            for size in gpu.free:
                _leave(self._free[size], gpu)

    def block(self, nodes: Iterable[NodeBook]) -> None:
        """Looks no more at nodes that refuse everybody who asks here, until `unblock`."""
        if not self._private:
            return
        for node in nodes:
            if node not in self.blocked:
                for gpu in node.gpus:
                    self.remove(gpu)
                node.indexes.remove(self)
                node.blocked_in.append(self)
                self.blocked[node] = None

    def unblock(self, node: NodeBook) -> None:
        """Looks at a blocked node again."""
        if node in self.blocked:
            del self.blocked[node]
            node.blocked_in.remove(self)
            node.indexes.append(self)
            for gpu in node.gpus:
                self.add(gpu)

    def unblock_all(self) -> None:
        """Looks at all nodes again."""
        for node in list(self.blocked):
            self.unblock(node)

    def fitting(self, gpus: Iterable[GpuBook], pods: PodClass) -> Iterator[GpuBook]:
        """Those whose nodes fit the class besides GPU memory. To be closed before anything is
        booked."""
        shunned: list[NodeBook] = []
        try:
            for gpu in gpus:
                node = gpu.node
                if node.cpu < pods.cpu or node.memory < pods.memory or node.pods < 1:
                    continue
                if not pods.may_share(gpu):
                    continue
                obstacle = None if pods.plain else pods.obstacle(node)
                if obstacle is None:
                    yield gpu
                elif obstacle.shared:
                    shunned.append(node)
        finally:
            self.block(shunned)

    def with_free(self, pods: PodClass) -> Iterator[GpuBook]:
        """GPUs where a slice of the class's largest size stands and is nobody's."""
        size = pods.largest
        gpus = reversed(self._free.get(size, _NONE))
        # It stands there only as long as its memory was not given away.
        return (gpu for gpu in gpus if gpu.reclaimable >= size)

    def with_uncarved(self, pods: PodClass) -> Iterator[GpuBook]:
        """GPUs with room beside all that stands there, tightest first."""
        return self._uncarved.walk(pods)

    def with_reclaimable(self, pods: PodClass) -> Iterator[GpuBook]:
        """GPUs with room once free slices are withdrawn, tightest first."""
        return self._reclaimable.walk(pods)

    def tightest(self, pods: PodClass) -> GpuBook | None:
        """The best of `with_uncarved` for a pod of one slice, as `best` chooses."""
        shunned: list[NodeBook] = []
        gpu = self._uncarved.first(pods, shunned)
        if shunned:
            self.block(shunned)
        return gpu


def best(gpus: Iterator[GpuBook]) -> GpuBook | None:
    """The first, unless one as tight stands on a node that is written anyway."""
    first: GpuBook | None = None
    tight = looked = 0
    for gpu in gpus:
        if gpu.node.carved:
            return gpu if first is None or gpu.uncarved == tight else first
        if first is None:
            first, tight = gpu, gpu.uncarved
        else:
            looked += 1
            if gpu.uncarved != tight or looked > _LOOK:
                return first
    return first
