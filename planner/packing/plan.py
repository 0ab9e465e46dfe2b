"""The plan: pure, total, the same for any order of its input.

Rank by rank: first the slices that stand, then greedy best fit in planned order. Where that leaves
somebody out who could be placed otherwise, other orders are tried and nodes are filled anew.
"""

import gc
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import groupby
from typing import Final

from planner.model import Cause, Plan, Pod, Refusal, Reservation, Snapshot
from planner.packing.draft import Draft
from planner.packing.gaps import close_gaps
from planner.packing.keep import keep
from planner.packing.ledger import Ledger
from planner.packing.order import units_of
from planner.packing.portfolio import best_order
from planner.packing.refusals import Inquest
from planner.packing.reserve import reserve
from planner.packing.search import could_fit, improve, seniors_first, shake
from planner.packing.stay import stay
from planner.packing.touch import spare_nodes
from planner.packing.waiting import Waiting

_BUDGET: Final = 3_000_000
"""Cells of knapsacks that may be computed in one plan: a second or so on one core."""


def solver_is_installed() -> bool:
    """Whether the extra `solver` is there, which `plan` can be told to use."""
    return find_spec("highspy") is not None


def plan(snapshot: Snapshot, pending: Iterable[Pod], *, solver: bool = False) -> Plan:
    """Where each pending pod goes, which layouts that takes, and why the rest cannot be placed.

    The same result for any order of nodes and pods. Nothing is written for nodes that stay as
    they are; used slices are never touched. `solver` needs the extra of that name.
    """
    pods = [pod for pod in pending if pod.seats]
    collecting = gc.isenabled()
    gc.disable()  # what a pass makes lives until its end: to look for garbage costs a third more
    try:
        return _Packing(snapshot, pods, solver=solver).run()
    finally:
        if collecting:
            gc.enable()


class _Packing:
    """One run of the packer over its draft."""

    def __init__(self, snapshot: Snapshot, pods: Sequence[Pod], *, solver: bool) -> None:
        units = units_of(pods, snapshot)
        self._draft = Draft(Ledger(snapshot, pods), units)
        self._reservations: list[tuple[int, list[Reservation]]] = []
        self._budget = _BUDGET * (2 if solver else 1)
        self._solver = solver
        self._fell_back = False

    def run(self) -> Plan:
        """The whole plan; the packing is spent then."""
        self._seat_all()
        made = self._result()
        self._draft.ledger.dissolve()
        return made

    def _seat_all(self) -> None:
        draft = self._draft
        everyone = range(len(draft.units))
        ranks = [list(numbers) for _, numbers in groupby(everyone, key=draft.rank.__getitem__)]
        contended = False
        for numbers in ranks:
            contended |= self._seat_rank(numbers)
            self._seat_late(range(numbers[-1] + 1))
        if not contended:
            spare_nodes(draft)
        if contended or draft.has_gaps():
            close_gaps(draft, ranks)
            self._seat_late(everyone)
        if contended:
            seniors_first(draft)

    def _seat_rank(self, numbers: Sequence[int]) -> bool:
        """Seats the units of one rank; whether there were more than fitted."""
        draft = self._draft
        self._serve_longest_waiting(numbers)
        left = stay(draft, [number for number in numbers if not draft.seated[number]])
        if draft.ledger.planned:
            left = [number for number in left if not self._comes_late(number)]
        if draft.ledger.standing:
            left = keep(draft, left)
            self._pin(numbers)
        refused = draft.fill(left)
        if not any(self._is_contended(number) for number in refused):
            return False
        so_far = range(numbers[-1] + 1)
        if any(draft.seated[n] and n not in draft.fixed for n in numbers):
            best_order(draft, numbers)
        if any(draft.seated[n] and draft.is_movable(n) for n in so_far):
            self._search(so_far, numbers)
        return True

    def _comes_late(self, number: int) -> bool:
        """Whether the unit was placed by the last plan, and may wait for others that were, too."""
        draft = self._draft
        return (
            not draft.seated[number]
            and draft.may_come_to_fit(number)
            and any(pod.uid in draft.ledger.planned for pod in draft.units[number].pods)
        )

    def _seat_late(self, numbers: Sequence[int]) -> None:
        """Seats units that could not be seated before others were there; of lower ranks, too."""
        draft = self._draft
        if not draft.ledger.relations.active:
            return
        out = [number for number in numbers if not draft.seated[number]]
        able = [number for number in out if draft.may_come_to_fit(number)]
        left = stay(draft, able)
        draft.late.update(dict.fromkeys(n for n in able if draft.seated[n]))
        left = [number for number in left if not draft.seated[number]]
        draft.late.update(dict.fromkeys([n for n in left if draft.place(n)]))
        draft.fill(number for number in left if not draft.seated[number])

    def _search(self, numbers: Sequence[int], rank: Sequence[int]) -> None:
        """Fits in what greedy left out of `rank`; `numbers` are the units of all ranks so far."""
        draft = self._draft
        waiting = self._improve(numbers)
        if not any(not draft.seated[number] and self._is_contended(number) for number in rank):
            return
        if self._solver:
            if self._consult_solver(numbers):
                return
            waiting = Waiting(draft, numbers, self._budget)
        kept = draft.arrangement(numbers)
        if not shake(draft, waiting, numbers, patient=self._solver):
            draft.rearrange(kept)  # moved for nothing
        self._budget = max(0, waiting.budget)

    def _improve(self, numbers: Sequence[int]) -> Waiting:
        """Fills nodes anew; returns who waits then."""
        waiting = Waiting(self._draft, numbers, self._budget)
        improve(self._draft, waiting)
        self._budget = max(0, waiting.budget)
        return waiting

    def _consult_solver(self, numbers: Sequence[int]) -> bool:
        """Seats what may be moved as a program over all nodes says, if that is worth more.

        Whether that is the best there is, so that no search finds more.
        """
        from planner.packing.guidance import Advice, guide  # late: only with the extra `solver`

        draft = self._draft
        movable = [number for number in numbers if draft.is_movable(number)]
        before = draft.worth(movable)
        held = draft.clear(movable)
        advice = guide(draft, movable, before, draft.rank[numbers[-1]])
        self._fell_back |= advice is Advice.TOO_LATE
        if advice in (Advice.EXACT, Advice.ROUNDED):
            draft.fill(number for number in movable if not draft.seated[number])
            self._improve(numbers)
            if draft.worth(movable) > before:
                return advice is Advice.EXACT
        draft.rearrange(held)
        return advice is Advice.EXACT

    def _serve_longest_waiting(self, numbers: Sequence[int]) -> None:
        """Of those that have waited long, in order, the first that does not fit gets a reservation.

        They go before pods for which a slice stands: what comes free is theirs. The oldest gives
        way to nobody; another that left its place to more GB in the last plan reserves nothing.
        """
        draft, oldest = self._draft, numbers[0]
        if not draft.units[oldest].aged:
            return
        stay(draft, numbers)
        for number in numbers:
            unit = draft.units[number]
            if not unit.aged:
                return
            if not draft.place(number) and unit.reserves and self._reserve(number, numbers):
                return
            if number == oldest and unit.reserves and draft.seated[number]:
                draft.fixed.add(number)

    def _reserve(self, number: int, numbers: Sequence[int]) -> bool:
        """Reserves GPUs for a unit of the rank, as if the younger ones were not there."""
        draft = self._draft
        younger = draft.clear(n for n in numbers if n > number and draft.seated[n])
        if younger.seated and draft.place(number):
            if number == numbers[0]:
                return False
            draft.take_back(number)
        else:
            found = reserve(draft, number)
            if found:
                self._reservations.append((number, found))
                # What was chosen depends on where these are.
                draft.fixed.update(n for n in range(number) if draft.seated[n])
                draft.fixed.difference_update(younger.seated)
                return True
        draft.rearrange(younger)
        return False

    def _pin(self, numbers: Iterable[int]) -> None:
        """Who has lost its gate may be bound to the slice at any moment: nobody moves it now."""
        draft = self._draft
        draft.fixed.update(
            number
            for number in numbers
            if draft.seated[number] and not any(pod.gated for pod in draft.units[number].pods)
        )

    def _is_contended(self, number: int) -> bool:
        ledger, pods = self._draft.ledger, self._draft.units[number].pods
        return any(could_fit(self._draft, ledger.shape(pod)) for pod in pods)

    def _result(self) -> Plan:
        """The draft as it stands, in planned order."""
        draft, ledger = self._draft, self._draft.ledger
        everyone = range(len(draft.units))
        late = draft.late
        order = [*(n for n in everyone if n not in late), *late] if late else everyone
        inquest = Inquest(ledger)
        placements, refusals = [], []
        for number in order:
            pods, seatings = draft.units[number].pods, draft.seated[number]
            if len(pods) == len(seatings) == 1:
                placements.append(seatings[0].placement)
                continue
            seated = {id(s.pod): s.placement for s in seatings}
            for pod in pods:
                placement = seated.get(id(pod))
                if placement is not None:
                    placements.append(placement)
                else:
                    refusals.append(_refusal(inquest, draft, number, pod))
        return Plan(
            placements=tuple(placements),
            refusals=tuple(refusals),
            layouts={node.name: ledger.layout(node) for node in ledger.nodes if node.carved},
            withdrawn=ledger.withdrawn(),
            fell_back=self._fell_back,
            reservations=tuple(
                each
                for number, found in self._reservations
                if not draft.seated[number]
                for each in found
            ),
        )


def _refusal(inquest: Inquest, draft: Draft, number: int, pod: Pod) -> Refusal:
    unit = draft.units[number]
    if draft.seated[number] or not pod.group or unit.needed <= 1:
        return inquest.refusal(pod)
    if len(unit.pods) < unit.needed:
        note = f"group {pod.group} needs {unit.needed} more pods and {len(unit.pods)} are pending"
    else:
        note = f"group {pod.group} needs {unit.needed} more pods at once, which do not all fit"
    return inquest.refusal(pod, Cause.GROUP, note)
