"""Pods onto slices that stand already: nothing has to be carved for them, nothing waits.

It is what makes planning a planned cluster again change nothing: pods whose slices are being made
find the same number of slices to take, whoever takes which. That is a matching, so a pod that took
the only slice which another could use gives way when it can take one elsewhere.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from mpslice.slices import SliceSize
from planner.packing.books import NodeBook
from planner.packing.draft import Draft
from planner.packing.greedy import gpus_on, seat_standing
from planner.packing.ledger import Seating
from planner.packing.shapes import Shape

_DEPTH: Final = 4  # pods that give way to one another in a row
_TRIES: Final = 64  # pods asked to give way for one


def keep(draft: Draft, numbers: Iterable[int]) -> list[int]:
    """Seats units on standing free slices, as far as there are any.

    The others are returned, and those of which further pods wait.
    Who needs several slices of one node finds fewer places than others, so they come first.
    """
    numbers = list(numbers)
    failed: set[Shape] = set()
    in_turn = sorted(numbers, key=lambda number: -_seats(draft, number))
    for number in in_turn:
        _serve(draft, number, failed)
    return [number for number in numbers if draft.is_lacking(number)]


def _seats(draft: Draft, number: int) -> int:
    return sum(len(pod.seats) for pod in draft.units[number].pods)


def _serve(draft: Draft, number: int, failed: set[Shape]) -> bool:
    unit, ledger = draft.units[number], draft.ledger
    if draft.seated[number] or len(unit.pods) < unit.needed:
        return False
    if len(unit.pods) == 1:
        shape = ledger.shape(unit.pods[0])
        if shape in failed:
            return False
        if _Displacement(draft).serve(number, _DEPTH):
            return True
        if shape.lasting:
            failed.add(shape)
        return False
    seated = [s for s in (seat_standing(ledger, pod) for pod in unit.pods) if s is not None]
    if seated and len(seated) >= unit.needed:
        draft.note(number, seated)
        return True
    for seating in seated:
        ledger.unseat(seating)
    return False


class _Displacement:
    """One search for an augmenting path through the pods that hold standing slices."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._asked: set[int] = set()
        self._moved: list[tuple[int, Sequence[Seating]]] = []  # who gave way, and from where

    def serve(self, number: int, depth: int) -> bool:
        """Seats a lone pod on standing slices, if need be of pods that can go elsewhere."""
        draft = self._draft
        pod = draft.units[number].pods[0]
        seating = seat_standing(draft.ledger, pod)
        if seating is not None:
            draft.note(number, [seating])
            return True
        shape = draft.ledger.shape(pod)
        return depth > 0 and any(
            self._displace(number, shape, node, others, depth)
            for node in shape.pool.nodes
            if draft.on[node.order]
            for others in self._in_the_way(shape, node)
        )

    def _in_the_way(self, shape: Shape, node: NodeBook) -> list[tuple[int, ...]]:
        """Units of the node that would leave enough slices standing: each alone if one does."""
        standing: Counter[SliceSize] = Counter()
        for gpu in node.gpus:
            standing.update(gpu.start.free)
        needed = Counter(shape.seats)
        if not needed <= standing:
            return []
        for gpu in node.gpus:
            needed.subtract(gpu.free)
        lacking = +needed
        holding = [n for n in self._draft.on[node.order] if self._may_go(n, shape, lacking)]
        if lacking.total() <= 1:
            return [(number,) for number in holding]
        chosen: list[int] = []
        for number in holding:
            seats = Counter(self._shape(number).seats)
            if lacking & seats:
                lacking -= seats
                chosen.append(number)
        return [] if lacking else [tuple(chosen)]

    def _may_go(self, number: int, shape: Shape, lacking: Counter[SliceSize]) -> bool:
        draft = self._draft
        if number in self._asked or not draft.is_free_standing(number):
            return False
        if number in draft.fixed and draft.units[number].pods[0].uid in draft.ledger.planned:
            return False  # it is where the last plan put it
        held = self._shape(number)
        return held is not shape and any(size in lacking for size in held.seats)

    def _shape(self, number: int) -> Shape:
        return self._draft.ledger.shape(self._draft.units[number].pods[0])

    def _displace(
        self, number: int, shape: Shape, node: NodeBook, others: tuple[int, ...], depth: int
    ) -> bool:
        if len(self._asked) >= _TRIES:
            return False
        draft, mark = self._draft, len(self._moved)
        self._asked.update((number, *others))
        self._moved += [(other, draft.take_back(other)) for other in others]
        gpus = gpus_on(node, shape, carve=False) if shape.fits(node) else None
        if gpus is not None:
            pod = draft.units[number].pods[0]
            draft.note(number, [draft.ledger.seat(pod, shape, node, gpus)])
            if all(self.serve(other, depth - 1) for other in others):
                return True
            draft.take_back(number)
        self._undo(mark)
        return False

    def _undo(self, mark: int) -> None:
        """Everybody who has moved since then goes back, also who gave way to one of the others."""
        moved, self._moved = self._moved[mark:], self._moved[:mark]
        for other, _ in moved:
            self._draft.take_back(other)
        for other, seated in moved:
            self._draft.restore(other, seated)
