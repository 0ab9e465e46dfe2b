"""Filling a node anew: the set of waiting pods that uses its GPUs' memory best.

For one GPU that is a knapsack over whole gb, solved exactly: the most gb, and of all ways to reach
them the one that takes the least CPU, which is what nodes with GPUs run out of first.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice, takewhile

from planner.packing.books import GpuBook, NodeBook
from planner.packing.draft import Draft
from planner.packing.pools import Pool
from planner.packing.shapes import Shape

_Entry = tuple[int, int]
"""CPU in thousandths and the unit's number: those that take the least CPU come first."""


class Waiting:
    """The movable units of a draft that are not placed, by rank, size, and where they may go."""

    def __init__(self, draft: Draft, numbers: Iterable[int]) -> None:
        self._draft = draft
        self._lists: list[dict[int, dict[Pool, list[_Entry]]]] = [{} for _ in range(draft.ranks)]
        self.movable: dict[int, Shape] = {}
        self.work = 0
        for number in numbers:
            if draft.is_movable(number):
                self.movable[number] = draft.ledger.shape(draft.units[number].pods[0])
                if not draft.seated[number]:
                    self.add(number)

    def add(self, number: int) -> None:
        insort(self._list(number), (max(self.movable[number].cpu, 0), number))

    def discard(self, number: int) -> None:
        entries = self._list(number)
        entry = (max(self.movable[number].cpu, 0), number)
        at = bisect_left(entries, entry)
        if at < len(entries) and entries[at] == entry:
            del entries[at]

    def _list(self, number: int) -> list[_Entry]:
        shape = self.movable[number]
        by_pool = self._lists[self._draft.rank[number]].setdefault(shape.largest, {})
        return by_pool.setdefault(shape.pool, [])

    def pools(self) -> set[Pool]:
        """Where those who wait may go."""
        return {
            pool
            for by_size in self._lists
            for by_pool in by_size.values()
            for pool, entries in by_pool.items()
            if entries
        }

    def sizes(self, rank: int) -> Iterator[int]:
        """Sizes of which somebody waits, the largest first."""
        waiting = self._lists[rank]
        return (size for size in sorted(waiting, reverse=True) if any(waiting[size].values()))

    def cheapest(self, rank: int, size: int, node: NodeBook, count: int) -> list[_Entry]:
        """Up to `count` units of a size that the node could hold one by one, least CPU first."""
        pools = self._lists[rank].get(size, {})
        lists = [entries for pool, entries in pools.items() if node.order in pool.orders]
        entries = lists[0] if len(lists) == 1 else merge(*lists)
        affordable = takewhile(lambda entry: entry[0] <= node.cpu or not entry[0], entries)
        return list(islice((e for e in affordable if self.movable[e[1]].fits(node)), count))


@dataclass(frozen=True, slots=True)
class _Fill:
    """A way to use so many gb: the last unit's number and the rest of the way."""

    numbers: tuple[int, ...]
    rest: "_Fill | None"

    def all(self) -> Iterator[int]:
        fill: _Fill | None = self
        while fill is not None:
            yield from fill.numbers
            fill = fill.rest


def refill(
    draft: Draft, waiting: Waiting, gpus: Sequence[GpuBook], *, even: bool = True
) -> list[int]:
    """Seats waiting units on the GPUs, one GPU after the other, rank by rank; who was seated.

    `even`: each GPU may use its share of its node's CPU, what it leaves goes to the next. Otherwise
    the first may use it all.
    """
    seated: list[int] = []
    for rank in range(draft.ranks):
        left = Counter(gpu.node.order for gpu in gpus)
        for gpu in gpus:
            node = gpu.node
            cpu = node.cpu // left[node.order] if even else node.cpu
            left[node.order] -= 1
            for number in _best_fill(waiting, rank, gpu, cpu):
                shape = waiting.movable[number]
                if gpu.reclaimable >= shape.largest and shape.fits(node):
                    waiting.discard(number)
                    draft.seat(number, gpu)
                    seated.append(number)
    return seated


def _best_fill(waiting: Waiting, rank: int, gpu: GpuBook, cpu: int) -> Iterable[int]:
    """The units that use the most of the GPU's gb within `cpu`, with the least CPU for that."""
    room = gpu.reclaimable
    if room <= 0:
        return ()
    never = 1 << 62
    least = [0] + [never] * room
    ways: list[_Fill | None] = [None] * (room + 1)
    for size in waiting.sizes(rank):
        entries = waiting.cheapest(rank, size, gpu.node, room // size) if size <= room else ()
        total, sums = 0, []
        for each, _ in entries:
            total += each
            sums.append(total)
        if not sums:
            continue
        for gb in range(room, size - 1, -1):
            for count in range(min(len(sums), gb // size), 0, -1):
                needed = least[gb - count * size] + sums[count - 1]
                if needed < least[gb]:
                    least[gb] = needed
                    numbers = tuple(number for _, number in entries[:count])
                    ways[gb] = _Fill(numbers, ways[gb - count * size])
        waiting.work += room
    best = next((gb for gb in range(room, 0, -1) if least[gb] <= cpu), 0)
    way = ways[best]
    return way.all() if way is not None else ()
