"""Who waits for a place: the units that a search may seat, by what decides where they fit."""

from bisect import bisect_left, insort
from collections.abc import Iterable
from heapq import merge

from planner.packing.books import NodeBook
from planner.packing.draft import Draft, Worth
from planner.packing.pools import Pool
from planner.packing.shapes import Shape

Entry = tuple[int, int]
"""CPU in thousandths and the unit's number: those that take the least CPU come first."""


class Waiting:
    """The movable units of a draft that are not placed, by rank, size, and where they may go.

    `work` counts the cells of knapsacks that were computed for them.
    """

    def __init__(self, draft: Draft, numbers: Iterable[int]) -> None:
        self._draft = draft
        self._lists: list[dict[int, dict[Pool, list[Entry]]]] = [{} for _ in range(draft.ranks)]
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

    def _list(self, number: int) -> list[Entry]:
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

    def sizes(self, rank: int) -> list[int]:
        """Sizes of which somebody waits, the largest first."""
        waiting = self._lists[rank]
        return [size for size in sorted(waiting, reverse=True) if any(waiting[size].values())]

    def cheapest(self, rank: int, size: int, node: NodeBook, count: int) -> list[Entry]:
        """Up to `count` units of a size that the node could hold one by one, least CPU first."""
        lists = [e for pool, e in self._lists[rank][size].items() if node.order in pool.orders]
        found: list[Entry] = []
        for entry in lists[0] if len(lists) == 1 else merge(*lists):
            if len(found) == count or entry[0] > max(node.cpu, 0):
                break
            if self.movable[entry[1]].fits(node):
                found.append(entry)
        return found

    def worth(self, numbers: Iterable[int]) -> Worth:
        """What movable units are worth when they are placed."""
        total = [0] * self._draft.ranks
        for number in numbers:
            total[self._draft.rank[number]] += self.movable[number].gb
        return tuple(total)
