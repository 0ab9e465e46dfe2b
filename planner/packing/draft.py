"""A plan in the making: which unit is seated where, and what that is worth."""

from collections.abc import Container, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from planner.model import Pod
from planner.packing.books import GpuBook, have_room
from planner.packing.greedy import Choose, seat_group, seat_pod
from planner.packing.ledger import Ledger, Seating
from planner.packing.order import Unit
from planner.packing.pools import tightest

Worth = tuple[int, ...]
"""GB of the placed slices by rank, the first counting most; compares as tuples do."""


class Arrangement(NamedTuple):
    """How units were seated, by number; and who came late then, in the order in which they came."""

    seated: dict[int, Sequence[Seating]]
    late: tuple[int, ...]


class Draft:
    """Units by number, in planned order, with their seatings; () for a unit that is not placed."""

    def __init__(self, ledger: Ledger, units: Sequence[Unit]) -> None:
        self.ledger = ledger
        self.units = units
        self.seated: list[Sequence[Seating]] = [()] * len(units)
        self._groups = [number for number, unit in enumerate(units) if len(unit.pods) > 1]
        self.rank: list[int] = []
        self.ranks = 0
        for _, alike in groupby(units, key=attrgetter("rank")):
            self.rank += [self.ranks for _ in alike]
            self.ranks += 1
        self.fixed: set[int] = set()  # seated units that nobody moves any more
        self.late: dict[int, None] = {}  # placed once others were that made it possible
        self.on: list[dict[int, None]] = [{} for _ in ledger.nodes]  # units by node order

    def place(self, number: int, choose: Choose = tightest) -> bool:
        """Seats the unit where it fits best, or what is left of it; whether any of it is seated."""
        unit = self.units[number]
        if self.seated[number]:
            self._top_up(number, choose)
            return True
        if len(unit.pods) == unit.needed == 1:
            seating = seat_pod(self.ledger, unit.pods[0], choose)
            if seating is None:
                return False
            self.seated[number] = (seating,)
            self.on[seating.node.order][number] = None
            return True
        self.note(number, seat_group(self.ledger, unit, choose))
        return bool(self.seated[number])

    def _top_up(self, number: int, choose: Choose) -> None:
        """Seats further pods of a unit that has the pods it needs."""
        there = {id(seating.pod) for seating in self.seated[number]}
        others = (pod for pod in self.units[number].pods if id(pod) not in there)
        more = [seat_pod(self.ledger, pod, choose) for pod in others]
        self.note(number, [*self.seated[number], *(s for s in more if s is not None)])

    def is_lacking(self, number: int) -> bool:
        """Whether not all pods of the unit are seated."""
        return len(self.seated[number]) < len(self.units[number].pods)

    def fill(self, numbers: Iterable[int], choose: Choose = tightest) -> list[int]:
        """Seats units in the order given; those that do not fit are returned.

        Some fit only once others are there, which they want to be near or spread among.
        """
        left = [number for number in numbers if not self.place(number, choose)]
        while late := [n for n in left if self.may_come_to_fit(n) and self.place(n, choose)]:
            self.late.update(dict.fromkeys(late))
            left = [number for number in left if not self.seated[number]]
        return left

    def may_come_to_fit(self, number: int) -> bool:
        """Whether placing others can make room for a unit that fits nowhere."""
        return not all(self.ledger.shape(pod).lasting for pod in self.units[number].pods)

    def seat(self, number: int, gpu: GpuBook) -> None:
        """Seats a lone pod with one slice on a GPU where the caller has seen that it fits."""
        pod = self.units[number].pods[0]
        shape = self.ledger.shape(pod)
        self.note(number, [self.ledger.seat(pod, shape, gpu.node, (gpu,))])

    def take_back(self, number: int) -> Sequence[Seating]:
        """Unseats a unit; what `restore` and `try_again` bring back."""
        seated, self.seated[number] = self.seated[number], ()
        self.late.pop(number, None)
        for seating in seated:
            self.ledger.unseat(seating)
            self.on[seating.node.order].pop(number, None)
        return seated

    def restore(self, number: int, seated: Iterable[Seating]) -> None:
        """Seats a unit exactly as it was."""
        again = [self.ledger.seat(s.pod, s.shape, s.node, s.gpus) for s in seated]
        self.note(number, again)

    def try_again(self, number: int, seated: Iterable[Seating]) -> bool:
        """Seats a unit as it was, if nothing has taken its place; whether it could be."""
        if self.seated[number]:
            return False
        again: list[Seating] = []
        for s in seated:
            if not s.shape.fits(s.node) or not have_room(s.shape.seats, s.gpus):
                for seating in again:
                    self.ledger.unseat(seating)
                return False
            again.append(self.ledger.seat(s.pod, s.shape, s.node, s.gpus))
        self.note(number, again)
        return True

    def note(self, number: int, seated: Sequence[Seating]) -> None:
        """Takes down how a unit was seated; who moved is told by the sequence's identity."""
        self.seated[number] = tuple(seated)
        for seating in seated:
            self.on[seating.node.order][number] = None

    def is_free_standing(self, number: int) -> bool:
        """Whether it is a lone pod, of no group that waits, on whose place no other's depends."""
        unit = self.units[number]
        if len(unit.pods) > 1 or unit.needed > 1:
            return False
        return not self.ledger.relations.active or not self._is_related(unit.pods[0])

    def _is_related(self, pod: Pod) -> bool:
        """Whether the pod's place depends on where others are, or theirs on its."""
        ledger = self.ledger
        return ledger.relations.counts(pod) or ledger.shape(pod).relations is not None

    def is_movable(self, number: int) -> bool:
        """Whether a search may seat the unit elsewhere or not at all: a lone pod with one slice."""
        if number in self.fixed or not self.is_free_standing(number):
            return False
        return self.ledger.shape(self.units[number].pods[0]).single

    def clear(self, numbers: Iterable[int]) -> Arrangement:
        """Unseats units; what `rearrange` brings back."""
        late = tuple(self.late)
        return Arrangement({number: self.take_back(number) for number in numbers}, late)

    def rearrange(self, arrangement: Arrangement) -> None:
        """Seats units exactly as they were, wherever they are now."""
        then = arrangement.seated.items()
        moved = [(number, seated) for number, seated in then if self.seated[number] is not seated]
        self.clear(number for number, _ in moved)
        for number, seated in moved:
            self.restore(number, seated)
        self.come_late(arrangement.late, arrangement.seated)

    def come_late(self, late: Iterable[int], numbers: Container[int]) -> None:
        """Of `numbers`, those in `late` come late again if they are seated, in the order there."""
        self.late = dict.fromkeys(
            number
            for number in (*late, *self.late)
            if number in self.late or (number in numbers and self.seated[number])
        )

    def arrangement(self, numbers: Iterable[int]) -> Arrangement:
        """How units are seated now, for `rearrange`."""
        return Arrangement({number: self.seated[number] for number in numbers}, tuple(self.late))

    def worth(self, numbers: Iterable[int]) -> Worth:
        """What the placed ones of these units are worth."""
        total = [0] * self.ranks
        for number in numbers:
            for seating in self.seated[number]:
                total[self.rank[number]] += seating.shape.gb
        return tuple(total)

    def has_gaps(self) -> bool:
        """Whether of some unit not all pods are seated that could be."""
        return any(self.seated[number] and self.is_lacking(number) for number in self._groups)
