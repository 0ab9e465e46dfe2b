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

    `budget` is how many cells of knapsacks may still be computed for them.
    """

    def __init__(self, draft: Draft, numbers: Iterable[int], budget: int) -> None:
        self._draft = draft
        self._lists: list[dict[int, dict[Pool, list[Entry]]]] = [{} for _ in range(draft.ranks)]
        self._places: dict[int, tuple[list[Entry], Entry]] = {}
        self.movable: dict[int, Shape] = {}
        self.budget = budget
        for number in numbers:
            if draft.is_movable(number):
                shape = self.movable[number] = draft.ledger.shape(draft.units[number].pods[0])
                by_pool = self._lists[draft.rank[number]].setdefault(shape.largest, {})
                entries = by_pool.setdefault(shape.pool, [])
                self._places[number] = entries, (max(shape.cpu, 0), number)
                if not draft.seated[number]:
                    self.add(number)

    def add(self, number: int) -> None:
        insort(*self._places[number])

    def discard(self, number: int) -> None:
        entries, entry = self._places[number]
        at = bisect_left(entries, entry)
        if at < len(entries) and entries[at] == entry:
            del entries[at]

    def pools(self) -> set[Pool]:
        """Where those who wait may go."""
        return {
            pool
            for by_size in self._lists
            for by_pool in by_size.values()
            for pool, entries in by_pool.items()
            if entries
        }

    def least_cpu(self) -> int:
        """The least CPU that one of the movable units asks for, in thousandths."""
        return min((entry[0] for _, entry in self._places.values()), default=0)

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
