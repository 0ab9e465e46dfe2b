"""GPUs that pods of equal demands on a node's identity may use, indexed for best fit.

Best fit asks for the tightest GPU whose node also has the CPU and memory. GPUs are kept by level
(how much their node has left, compared with what pods ask for) and by whole gb, so that nodes that
ran out of CPU are not looked at again and again.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final

from mpslice.slices import SliceSize
from planner.packing.books import GpuBook, NodeBook
from planner.packing.shapes import Shape

_CUTS: Final = 8  # levels that tell nodes apart, beside the lowest
_LOOK: Final = 4  # how many GPUs are compared with the first that fits
_FEW: Final = 32  # so many GPUs are quicker to look through than to keep in an index


def tightest(gpus: Iterable[GpuBook], shape: Shape) -> GpuBook | None:
    """The first that fits, unless one as tight stands on a node that is written anyway."""
    fits = shape.fits
    first: GpuBook | None = None
    tight = looked = 0
    for gpu in gpus:
        if first is None:
            if fits(gpu.node):
                if gpu.node.carved:
                    return gpu
                first, tight = gpu, gpu.uncarved
            continue
        looked += 1
        if gpu.uncarved != tight or looked > _LOOK:
            break
        if gpu.node.carved and fits(gpu.node):
            return gpu
    return first


class Levels:
    """How much CPU and memory a node has left, as a small number; pods are measured alike.

    A pod fits only on nodes of its own level or above: a level counts how many of the amounts that
    pods ask for (a sample of them, by rank) are at most what is left, the scarcer of the two.
    """

    def __init__(self, shapes: Iterable[Shape]) -> None:
        shapes = list(shapes)
        self._cpu = _cuts(shape.cpu for shape in shapes)
        self._memory = _cuts(shape.memory for shape in shapes)
        self.count = min(len(self._cpu), len(self._memory)) + 1
        bounds = [*zip(self._cpu, self._memory, strict=False)]
        self.floors = [(-inf, -inf), *bounds]
        """By level: a node that has less CPU or less memory is on a lower one."""
        self.ceilings = [*bounds, (inf, inf)]
        """By level: a node that has so much of both is on a higher one."""

    def of(self, cpu: int, memory: int) -> int:
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

    def _places(self, shape: Shape) -> Iterator[int]:
        place = shape.largest * self._levels
        rest = (self._mask & self._above[shape.level]) >> place
        place -= 1
        while rest:
            step = (rest & -rest).bit_length()
            place += step
            rest >>= step
            yield place

    def walk(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs of the shape's level or above with room for its largest slice, the tightest first.

        Within an amount those whose nodes have less left come first.
        """
        for place in self._places(shape):
            yield from reversed(self._buckets[place])

    def tightest(self, shape: Shape) -> GpuBook | None:
        """`tightest` of `walk`, quicker: most pods ask for it once and get the first that fits."""
        cpu, memory, plain = shape.cpu, shape.memory, shape.plain
        place = shape.largest * self._levels - 1
        rest = (self._mask & self._above[shape.level]) >> place + 1
        while rest:
            step = (rest & -rest).bit_length()
            place += step
            for gpu in reversed(self._buckets[place]):
                node = gpu.node
                if node.cpu < cpu or node.memory < memory or node.pods < 1:
                    continue
                if plain or shape.refused_by(node) is None:
                    return gpu if node.carved else tightest(self.walk(shape), shape)
            rest >>= step
        return None


class Pool:
    """The GPUs of some nodes. An index is kept only of many; `gpus` that change are to be taken out
    before and added after, or `moved` where nothing stood from the start."""

    def __init__(self, nodes: Sequence[NodeBook], levels: int) -> None:
        self.nodes = nodes
        self.orders = frozenset(node.order for node in nodes)
        self.gpus = [gpu for node in nodes for gpu in node.gpus]
        self._few = len(self.gpus) <= _FEW
        most = 0 if self._few else max(gpu.reclaimable for gpu in self.gpus)
        self._uncarved = _Index(levels, most)
        self._reclaimable = _Index(levels, most)
        self._free: dict[SliceSize, _Bucket] = {}
        if not self._few:
            for node in nodes:
                node.pools.append(self)
            self._uncarved.fill(nodes)
            for gpu in reversed(self.gpus):
                if gpu.free:
                    self._add_standing(gpu)

    def add(self, gpu: GpuBook) -> None:
        """Indexes a GPU as it is now."""
        self._uncarved.move(gpu, gpu.node.level, 0, gpu.uncarved)
        if gpu.free:
            self._add_standing(gpu)

    def _add_standing(self, gpu: GpuBook) -> None:
        if not gpu.closed:
            self._reclaimable.move(gpu, gpu.node.level, 0, gpu.reclaimable)
            for size in gpu.free:
                self._free.setdefault(size, {})[gpu] = None

    def moved(self, gpu: GpuBook, before: int) -> None:
        """Indexes anew a GPU on which nothing stood from the start, with so much uncarved then."""
        self._uncarved.move(gpu, gpu.node.level, before, gpu.uncarved)

    def remove(self, gpu: GpuBook) -> None:
        """Takes a GPU out that is as it was when it was added."""
        level = gpu.node.level
        self._uncarved.move(gpu, level, gpu.uncarved, 0)
        if gpu.free and not gpu.closed:
            self._reclaimable.move(gpu, level, gpu.reclaimable, 0)
            for size in gpu.free:
                _leave(self._free[size], gpu)

    def with_free(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs where a slice of the shape's largest size stands and is nobody's."""
        size = shape.largest
        gpus: Iterable[GpuBook]
        if self._few:
            gpus = [gpu for gpu in self.gpus if size in gpu.free]
        else:
            gpus = reversed(self._free.get(size, _NONE))
        # It stands there only as long as its memory was not given away.
        return (gpu for gpu in gpus if gpu.reclaimable >= size)

    def with_uncarved(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs with room beside all that stands there, tightest first."""
        if self._few:
            return _tightest_first(
                (gpu.uncarved, gpu) for gpu in self.gpus if gpu.uncarved >= shape.largest
            )
        return self._uncarved.walk(shape)

    def tightest(self, shape: Shape) -> GpuBook | None:
        """The tightest of `with_uncarved` for a pod of one slice, as `tightest` chooses."""
        if self._few:
            return tightest(self.with_uncarved(shape), shape)
        return self._uncarved.tightest(shape)

    def with_reclaimable(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs with room once free slices are withdrawn, tightest first."""
        if self._few:
            return _tightest_first(
                (gpu.reclaimable, gpu)
                for gpu in self.gpus
                if gpu.free_count and gpu.reclaimable >= shape.largest
            )
        return self._reclaimable.walk(shape)


def _tightest_first(gpus: Iterable[tuple[int, GpuBook]]) -> Iterator[GpuBook]:
    return (gpu for _, gpu in sorted(gpus, key=lambda item: (item[0], item[1].order)))
