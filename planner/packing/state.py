"""The state of a plan in the making: the ledger, and which unit is where.

One state, changed in place. Every change of a unit's place is written into a journal, so that
whatever was tried can be taken back: `checkpoint`, changes, then `rollback` or nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing.ledger import Ledger, Seating
from planner.packing.order import Unit

Seatings = Sequence[Seating]

_RANK_BITS = 40  # of a value: no rank's GB reach into those of the rank before


class State(Ledger):
    """Units by number, in planned order; `placed` has their seatings, () where there are none."""

    def __init__(self, snapshot: Snapshot, pods: Sequence[Pod], units: Sequence[Unit]) -> None:
        """`pods` must outlive the state, which knows pods by identity."""
        super().__init__(snapshot, pods)
        self.units = units
        self.placed: list[Seatings] = [()] * len(units)
        self.after: dict[int, int] = {}
        """The group that has to be placed first, by unit."""
        self.further: dict[int, list[int]] = {}
        """By group, the units that may be placed after it."""
        later = [number for number, unit in enumerate(units) if unit.after is not None]
        numbers = {id(unit): number for number, unit in enumerate(units)} if later else {}
        for number in later:
            group = self.after[number] = numbers[id(units[number].after)]
            self.further.setdefault(group, []).append(number)
        self._divided: set[int] = set()  # groups that were placed once
        self.on: list[dict[int, None]] = [{} for _ in self.nodes]  # units by node order
        self.fixed: set[int] = set()  # units that are under way: nobody moves them any more
        self._journal: list[tuple[int, Seatings]] = []
        self.rank: list[int] = []
        self.ranks = 0
        for _, alike in groupby(units, key=attrgetter("rank")):
            self.rank += [self.ranks for _ in alike]
            self.ranks += 1

    # Placing units, with a journal

    def put(self, number: int, seatings: Seatings) -> None:
        """Notes where a unit is whose pods have been booked; none of its pods were before."""
        self._journal.append((number, self.placed[number]))
        self.placed[number] = seatings
        for seating in seatings:
            self.on[seating.node.order][number] = None
        if self.further and number in self.further:
            self._divided.add(number)

    def members(self, number: int) -> list[Pod]:
        """The pods of which a group may choose those that it needs: until it was placed once, the
        further ones as well.
        """
        pods = list(self.units[number].pods)
        if number not in self._divided:
            pods += [self.units[each].pods[0] for each in self.further.get(number, ())]
        return pods

    def divide(self, number: int, chosen: Sequence[Pod]) -> None:
        """Makes these of its members the ones that a group needs."""
        taken = Counter(map(id, chosen))  # a pod that was given twice is two members
        others = []
        for pod in self.members(number):
            if taken[id(pod)]:
                taken[id(pod)] -= 1
            else:
                others.append(pod)
        for each, pod in zip(self.further.get(number, ()), others, strict=True):
            self.units[each].pods = (pod,)
        self.units[number].pods = tuple(chosen)

    def fix(self, numbers: Iterable[int]) -> None:
        """Has nobody move the units any more, nor the groups that had to be placed before them."""
        for number in numbers:
            self.fixed.update((number, self.after.get(number, number)))

    def unassign(self, number: int) -> Seatings:
        """Takes a unit from where it is; returns its seatings."""
        seatings = self.placed[number]
        if seatings:
            self._journal.append((number, seatings))
            self._leave(number)
        return seatings

    def _leave(self, number: int) -> None:
        for seating in self.placed[number]:
            self.unbook(seating)
            self.on[seating.node.order].pop(number, None)
        self.placed[number] = ()

    def checkpoint(self) -> tuple[int, int]:
        """What `rollback` goes back to."""
        mark = len(self._journal), self._epoch
        self._begin_epoch()
        return mark

    def rollback(self, mark: tuple[int, int]) -> list[int]:
        """Has every unit where it was at the checkpoint; returns those that had moved."""
        length, epoch = mark
        before = dict(reversed(self._journal[length:]))  # the first change of each counts
        del self._journal[length:]
        moved = [number for number in before if self.placed[number] is not before[number]]
        for number in moved:
            self._leave(number)
        for number in moved:
            seatings = before[number]
            for s in seatings:
                self.book(s.pod, s.pods, s.node, s.gpus)
                self.on[s.node.order][number] = None
            self.placed[number] = seatings
        self._epoch = epoch
        return moved

    # What a unit is worth, and what may be done with it

    def value(self, number: int) -> int:
        """GB of the unit's placed slices, those of a higher rank above all of the lower ones.

        Values add up, and sums of them compare as plans do.
        """
        gb = sum(seating.pods.gb for seating in self.placed[number])
        return self.worth(number, gb)

    def worth(self, number: int, gb: int) -> int:
        """What so many GB of the unit are worth."""
        return gb << _RANK_BITS * (self.ranks - 1 - self.rank[number])

    def gb_of_first_rank(self, value: int) -> int:
        """The GB of the highest rank that a value has any of."""
        while value >> _RANK_BITS:
            value >>= _RANK_BITS
        return value

    def total(self, numbers: Iterable[int]) -> int:
        """The value of these units together."""
        return sum([self.value(number) for number in numbers if self.placed[number]])

    def gb_by_rank(self, numbers: Iterable[int]) -> list[int]:
        """GB of these units' placed slices, by rank."""
        found = [0] * self.ranks
        for number in numbers:
            found[self.rank[number]] += sum([s.pods.gb for s in self.placed[number]])
        return found

    def may_go(self, number: int) -> bool:
        """Whether the unit may be placed: all its pods are there, and so is the group before it."""
        unit, group = self.units[number], self.after.get(number)
        return len(unit.pods) >= unit.needed and (group is None or bool(self.placed[group]))

    def is_alone(self, number: int) -> bool:
        """Whether the unit is a lone pod that may be moved by itself: it has no group that waits or
        is spread, and no other unit depends on its place.
        """
        if self.units[number].needed > 1 or number in self.further or not self.may_go(number):
            return False
        if self.units[number].pods[0].spread:
            return False
        if not self.relations.active:
            return True
        pod = self.units[number].pods[0]
        return self.class_of(pod).demands is None and not self.relations.counts(pod)

    def is_movable(self, number: int) -> bool:
        """Whether a search may place the unit elsewhere or not at all: a lone pod of one slice."""
        if number in self.fixed or not self.is_alone(number):
            return False
        pods = self.class_of(self.units[number].pods[0])
        return pods.single and pods.largest > 0
