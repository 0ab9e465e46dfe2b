"""GPUs that pods of equal demands on a node's identity may use, indexed for best fit.

Best fit asks for the tightest GPU whose node also has the CPU and memory. GPUs are kept by level
(how much their node has left, compared with what pods ask for) and by whole gb, so that nodes that
ran out of CPU are not looked at again and again.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mpslice.slices import SliceSize
from planner.packing.books import GpuBook, NodeBook
from planner.packing.shapes import Shape

_CUTS: Final = 8  # levels that tell nodes apart, beside the lowest
_NONE: Final[dict[int, GpuBook]] = {}
_FEW: Final = 32  # so many GPUs are quicker to look through than to keep in an index


class Levels:
    """How much CPU and memory a node has left, as a small number; pods are measured alike.

    A pod fits only on nodes of its own level or above: a level counts how many of the amounts that
    pods ask for (a sample of them, by rank) are at most what is left, the scarcer of the two.
    """

    def __init__(self, shapes: Iterable[Shape]) -> None:
        shapes = list(shapes)
        self._cpu = _cuts(shape.cpu for shape in shapes)
        self._memory = _cuts(shape.memory for shape in shapes)
        self.count = max(len(self._cpu), len(self._memory)) + 1

    def of(self, cpu: int, memory: int) -> int:
        return min(bisect_right(self._cpu, cpu), bisect_right(self._memory, memory))


def _cuts(amounts: Iterable[int]) -> list[int]:
    """The smallest amount and some more, at equal distances by rank."""
    distinct = sorted(set(amounts))
    step = max(1, -(-len(distinct) // _CUTS))
    return distinct[::step]


class _Cell:
    """GPUs of one level by gb. A bit of `mask` says which amounts occur."""

    __slots__ = ("buckets", "mask")

    def __init__(self) -> None:
        self.buckets: dict[int, dict[int, GpuBook]] = {}
        self.mask = 0

    def add(self, amount: int, gpu: GpuBook) -> None:
        bucket = self.buckets.get(amount)
        if bucket is None:
            self.buckets[amount] = {gpu.order: gpu}
            self.mask |= 1 << amount
        else:
            bucket[gpu.order] = gpu

    def remove(self, amount: int, gpu: GpuBook) -> None:
        bucket = self.buckets[amount]
        del bucket[gpu.order]
        if not bucket:
            del self.buckets[amount]
            self.mask ^= 1 << amount


class Pool:
    """The GPUs of some nodes. An index is kept only of many; `gpus` that change say so before and
    after (`remove`, `add`)."""

    def __init__(self, nodes: Sequence[NodeBook], levels: int) -> None:
        self.nodes = nodes
        self.orders = frozenset(node.order for node in nodes)
        self.gpus = [gpu for node in nodes for gpu in node.gpus]
        self._few = len(self.gpus) <= _FEW
        self._uncarved = [_Cell() for _ in range(levels)]
        self._reclaimable = [_Cell() for _ in range(levels)]
        self._free: dict[SliceSize, dict[int, GpuBook]] = {}
        if not self._few:
            for node in nodes:
                node.pools.append(self)
                for gpu in node.gpus:
                    self.add(gpu)

    def add(self, gpu: GpuBook) -> None:
        """Indexes a GPU as it is now."""
        level = gpu.node.level
        amount = gpu.uncarved
        if amount > 0:
            self._uncarved[level].add(amount, gpu)
        if gpu.free_count and not gpu.closed:
            amount = gpu.reclaimable
            if amount > 0:
                self._reclaimable[level].add(amount, gpu)
            for size in gpu.free:
                self._free.setdefault(size, {})[gpu.order] = gpu

    def remove(self, gpu: GpuBook) -> None:
        """Takes a GPU out that is as it was when it was added."""
        level = gpu.node.level
        amount = gpu.uncarved
        if amount > 0:
            self._uncarved[level].remove(amount, gpu)
        if gpu.free_count and not gpu.closed:
            amount = gpu.reclaimable
            if amount > 0:
                self._reclaimable[level].remove(amount, gpu)
            for size in gpu.free:
                del self._free[size][gpu.order]

    def with_free(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs where a slice of the shape's largest size stands and is nobody's."""
        size = shape.largest
        gpus: Iterable[GpuBook]
        if self._few:
            gpus = [gpu for gpu in self.gpus if size in gpu.free]
        else:
            gpus = self._free.get(size, _NONE).values()
        # It stands there only as long as its memory was not given away.
        return (gpu for gpu in gpus if gpu.reclaimable >= size)

    def with_uncarved(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs with room beside all that stands there, tightest first."""
        if self._few:
            return _tightest_first(
                (gpu.uncarved, gpu) for gpu in self.gpus if gpu.uncarved >= shape.largest
            )
        return _walk(self._uncarved, shape)

    def with_reclaimable(self, shape: Shape) -> Iterator[GpuBook]:
        """GPUs with room once free slices are withdrawn, tightest first."""
        if self._few:
            return _tightest_first(
                (gpu.reclaimable, gpu)
                for gpu in self.gpus
                if gpu.free_count and gpu.reclaimable >= shape.largest
            )
        return _walk(self._reclaimable, shape)


def _tightest_first(gpus: Iterable[tuple[int, GpuBook]]) -> Iterator[GpuBook]:
    return (gpu for _, gpu in sorted(gpus, key=lambda item: (item[0], item[1].order)))


def _walk(cells: list[_Cell], shape: Shape) -> Iterator[GpuBook]:
    """GPUs from the tightest amount on; nodes with less left first within an amount."""
    levels = cells[shape.level :]
    amount = int(shape.largest)
    while True:
        mask = 0
        for cell in levels:
            mask |= cell.mask
        rest = mask >> amount
        if not rest:
            return
        amount += (rest & -rest).bit_length() - 1
        bit = 1 << amount
        for cell in levels:
            if cell.mask & bit:
                yield from cell.buckets[amount].values()
        amount += 1
