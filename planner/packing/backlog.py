"""The units that a search may place: which of them wait, by what decides where they fit."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from heapq import merge

from planner.packing.books import NodeBook
from planner.packing.classes import PodClass
from planner.packing.ledger import AnyCandidates
from planner.packing.state import State

Entry = tuple[int, int]
"""CPU in thousandths and the unit's number: those that take the least CPU come first."""


class Backlog:
    """The movable units that are not placed, by rank, size, and where they may go."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lists: dict[int, dict[int, dict[AnyCandidates, list[Entry]]]] = {}
        self._places: dict[int, tuple[list[Entry], Entry]] = {}
        self._by_rank: Counter[int] = Counter()
        self.movable: dict[int, PodClass] = {}
        self.least_cpu = 1 << 62
        """The least CPU that one of the movable units asks for, in thousandths."""

    def enroll(self, numbers: Iterable[int]) -> None:
        """Takes units in as they are now; those that may not be moved are left out."""
        state = self._state
        for number in numbers:
            if number in self._places:
                self.discard(number)
            if not state.is_movable(number):
                self.movable.pop(number, None)
                continue
            pods = self.movable[number] = state.class_of(state.units[number].pods[0])
            by_size = self._lists.setdefault(state.rank[number], {})
            by_candidates = by_size.setdefault(pods.largest, {})
            entries = by_candidates.setdefault(state.candidates(pods), [])
            cpu = max(pods.cpu, 0)
            self.least_cpu = min(self.least_cpu, cpu)
            self._places[number] = entries, (cpu, number)
            if not state.placed[number]:
                self.add(number)

    def add(self, number: int) -> None:
        """The unit waits from now on."""
        entries, entry = self._places[number]
        insort(entries, entry)
        self._by_rank[self._state.rank[number]] += 1

    def discard(self, number: int) -> None:
        """The unit waits no more, if it did."""
        entries, entry = self._places[number]
        at = bisect_left(entries, entry)
        if at < len(entries) and entries[at] == entry:
            del entries[at]
            self._by_rank[self._state.rank[number]] -= 1

    def candidates(self) -> list[AnyCandidates]:
        """Where those that wait may go."""
        state = self._state
        waiting = (pods for number, pods in self.movable.items() if not state.placed[number])
        return list({state.candidates(pods): None for pods in waiting})

    def ranks(self) -> list[int]:
        """Ranks of which some unit waits, the highest first."""
        return sorted(rank for rank, count in self._by_rank.items() if count)

    def sizes(self, rank: int) -> list[int]:
        """Sizes of which some unit waits, the largest first."""
        waiting = self._lists[rank]
        return [size for size in sorted(waiting, reverse=True) if any(waiting[size].values())]

    def cheapest(self, rank: int, size: int, node: NodeBook, count: int) -> list[Entry]:
        """Up to `count` units of a size that the node could hold one by one, least CPU first."""
        lists = [e for c, e in self._lists[rank][size].items() if node.order in c.orders]
        found: list[Entry] = []
        for entry in lists[0] if len(lists) == 1 else merge(*lists):
            if len(found) == count or entry[0] > max(node.cpu, 0):
                break
            if self.movable[entry[1]].fits(node):
                found.append(entry)
        return found

    def value(self, numbers: Iterable[int]) -> int:
        """What movable units are worth when they are placed."""
        worth, movable = self._state.worth, self.movable
        return sum([worth(number, movable[number].gb) for number in numbers])
