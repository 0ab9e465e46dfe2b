"""The plan: pure, total, the same for any order of its input.

Rank by rank: first what is under way, then best fit in planned order. Where that leaves somebody
out who could be placed otherwise, other orders are tried and nodes are filled again. At the end
older pods are exchanged for younger ones, and what is written is made as little as possible.
"""

import gc
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import groupby
from time import perf_counter
from typing import Final

from planner.model.nodes import Gpu, Layout, NodeState
from planner.model.plan import Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing import budget
from planner.packing.backlog import Backlog
from planner.packing.budget import Budget, work_of
from planner.packing.fit import fill
from planner.packing.least_change import change_least
from planner.packing.order import units_of
from planner.packing.orders import best_order
from planner.packing.preempt import Preemptor
from planner.packing.refusals import RefusalExplainer
from planner.packing.reserve import Held, serve_longest_waiting
from planner.packing.reuse import is_nominated, keep_nominated, reuse_free_slices
from planner.packing.search import could_fit, improve, shake
from planner.packing.seniority import older_first
from planner.packing.sequence import in_turn
from planner.packing.spread import keep_places, places
from planner.packing.standing import Ways, best_ways
from planner.packing.state import State

_SETTLED: Final = 400
"""Up to so many placed pods a plan is planned again as if it were carried out."""

_ROUNDS: Final = 3

_LOOKS: Final = 8
"""The search for the best way to use the free slices runs for so many ranks. The ranks after them
use the last result. It stays the best, unless a pod without a free slice took memory from it."""

_PLACING: Final = 15  # what it costs to place a unit, in cells


class _TooLate(Exception):
    """The solver did not answer in time."""


def solver_is_installed() -> bool:
    """Whether the extra `solver` is there, which `plan` can be told to use."""
    return find_spec("highspy") is not None


def plan(snapshot: Snapshot, pending: Iterable[Pod], *, solver: bool = False) -> Plan:
    """Where each pending pod goes, which layouts that takes, and why the rest cannot be placed.

    The same result for any order of nodes and pods. Nothing is written for nodes that stay as
    they are; used slices are never touched. `solver` needs the extra of that name; if it runs out
    of time, the plan is the one without it and says so.
    """
    pods = [pod for pod in pending if pod.seats]
    collecting = gc.isenabled()
    gc.disable()  # what a plan makes lives until its end: to look for garbage costs a third more
    try:
        if solver:
            try:
                return _settled(snapshot, pods, perf_counter() + budget.SOLVER_SECONDS)
            except _TooLate:
                return replace(_settled(snapshot, pods, None), fell_back=True)
        return _settled(snapshot, pods, None)
    finally:
        if collecting:
            gc.enable()


def _settled(snapshot: Snapshot, pods: Sequence[Pod], deadline: float | None) -> Plan:
    """A plan that the next one leaves as it is, once its slices stand.

    It is planned again as if its layouts were applied, and becomes what that comes to, until
    nothing changes. Where the ways to use its slices were too many to compare, a plan that is worth
    less is not taken.
    """
    work = Budget(work_of(len(snapshot.nodes), solver=deadline is not None))
    made, value = _Packing(snapshot, pods, deadline, work).run()
    if not made.layouts or len(made.placements) > _SETTLED or not _is_sound(snapshot):
        return made
    for _ in range(_ROUNDS):
        packing = _Packing(places(_carved(snapshot, made), made), pods, None, work)
        again, worth = packing.run()
        if not again.layouts and again.placements == made.placements:
            break
        if worth < value and not packing.all_compared:
            break
        layouts, withdrawn = _changes(snapshot, pods, again)
        made, value = replace(again, layouts=layouts, withdrawn=withdrawn), worth
    return made


def _is_sound(snapshot: Snapshot) -> bool:
    """Whether no node and no GPU of a node is listed twice."""
    names = {state.node.name for state in snapshot.nodes}
    return len(names) == len(snapshot.nodes) and all(
        len(state.gpus) < 2 or len({gpu.uuid for gpu in state.gpus}) == len(state.gpus)
        for state in snapshot.nodes
    )


def _carved(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The cluster with the plan's layouts, before anybody is bound."""

    def gpu(gpu: Gpu, node: str) -> Gpu:
        free = Counter(made.layouts[node][gpu.uuid])
        free.subtract(gpu.used)
        return replace(gpu, free=dict(+free))

    def state(state: NodeState) -> NodeState:
        name = state.node.name
        return replace(state, gpus=tuple([gpu(each, name) for each in state.gpus]))

    nodes = (state(each) if each.node.name in made.layouts else each for each in snapshot.nodes)
    return replace(snapshot, nodes=tuple(nodes))


def _changes(
    snapshot: Snapshot, pods: Sequence[Pod], made: Plan
) -> tuple[Mapping[str, Layout], int]:
    """The layouts for placements that were planned on another state, and what is withdrawn."""
    names = {name for _, name, _ in made.placements}
    nodes = tuple([each for each in snapshot.nodes if each.node.name in names])
    state = State(replace(snapshot, nodes=nodes), pods, [])
    by_uuid = {(node.name, gpu.uuid): gpu for node in state.nodes for gpu in node.gpus}
    for pod, name, uuids in made.placements:
        gpus = tuple(by_uuid[name, uuid] for uuid in uuids)
        state.book(pod, state.class_of(pod), gpus[0].node, gpus)
    found = {node.name: state.layout(node) for node in state.nodes if node.carved}
    withdrawn = state.withdrawn()
    state.dissolve()
    return found, withdrawn


class _Packing:
    """One run over a state of its own."""

    def __init__(
        self, snapshot: Snapshot, pods: Sequence[Pod], deadline: float | None, work: Budget
    ) -> None:
        self._snapshot = snapshot
        self._state = State(snapshot, pods, units_of(pods, snapshot))
        self._backlog = Backlog(self._state)
        self._enrolled = 0  # so many units are in the backlog
        self._held: list[Held] = []
        every = snapshot.preemptible
        self._preemptor = None if every is None else Preemptor(self._state, every)
        self._budget = work
        self._deadline = deadline
        self._ways: Ways | None = None
        self._looks = _LOOKS
        self.all_compared = True
        """Whether the best way to use the free slices was found each time."""

    def run(self) -> tuple[Plan, int]:
        """The whole plan and its value; the packing is spent then. Raises _TooLate."""
        try:
            return self._run()
        finally:
            self._state.dissolve()

    def _run(self) -> tuple[Plan, int]:
        state = self._state
        everyone = range(len(state.units))
        ranks = [list(numbers) for _, numbers in groupby(everyone, key=state.rank.__getitem__)]
        keep_places(state, self._snapshot)
        contended = False
        for turn, numbers in enumerate(ranks):
            contended |= self._place_rank(numbers, len(ranks) - turn)
            self._preempt(numbers)
            if state.relations.active and turn:
                before = self._lacking(range(numbers[0]))
                self._fill(before)
                self._backlog.enroll(n for n in before if n < self._enrolled and state.placed[n])
        lacking = self._lacking(everyone)
        if contended or any(state.placed[n] for n in lacking):
            self._close_gaps(ranks)
        if lacking:
            older_first(state)
        change_least(state, self._budget)
        if lacking:
            self._release_served()
            self._fill(everyone)  # what moved, or is kept no more, may have left room
        made = self._result()
        return made, state.total(everyone) if len(made.placements) <= _SETTLED else 0

    def _fill(self, numbers: Iterable[int]) -> list[int]:
        return fill(self._state, self._lacking(numbers))

    def _lacking(self, numbers: Iterable[int]) -> list[int]:
        """Units that are not placed."""
        placed = self._state.placed
        return [n for n in numbers if not placed[n]]

    def _place_rank(self, numbers: Sequence[int], ranks_left: int) -> bool:
        """Places the units of one rank; whether there were more than fitted."""
        state = self._state
        if state.standing and self._looks > 0:
            self._looks -= 1
            later = range(numbers[0], len(state.units))
            self._ways = best_ways(state, [n for n in later if not state.placed[n]])
            self.all_compared &= self._ways is not None
        if self._preemptor is not None:
            self._resume(self._preemptor, numbers)
        kept = {held.number for held in self._held}
        waiting = [number for number in numbers if number not in kept]
        held = serve_longest_waiting(state, waiting, self._snapshot, self._ways or {})
        if held is not None:
            self._held.append(held)
        keep_nominated(state, [n for n in numbers if not state.placed[n]], self._ways)
        if state.standing:
            reuse_free_slices(state, numbers, self._ways)
        # A nominated pod that waits for others to be there first comes in once they are.
        late = [n for n in numbers if is_nominated(state, n)] if state.relations.active else []
        refused = self._fill(sorted({*numbers}.difference(late)) if late else numbers)
        if late:
            keep_nominated(state, late, self._ways)
            refused = sorted([*refused, *self._fill(late)])
        if not self._is_contended(refused):
            return False
        share = self._budget.share(ranks_left)
        if any(state.placed[n] and n not in state.fixed for n in numbers):
            share.spend(_PLACING * best_order(state, numbers))
        self._search(range(numbers[-1] + 1), numbers, share)
        self._budget.settle(share)
        return True

    def _resume(self, preemptor: Preemptor, numbers: Sequence[int]) -> None:
        """Keeps room for units that have begun to preempt: from the younger ones of their rank, for
        the older ones come first.
        """
        for number in preemptor.begun(numbers):
            older = [n for n in numbers if n < number and not self._state.placed[n]]
            older = [n for n in older if all(held.number != n for held in self._held)]
            keep_nominated(self._state, older, self._ways)
            if self._state.standing:
                reuse_free_slices(self._state, older, self._ways)
            self._fill(older)
            held = preemptor.resume(number)
            if held is not None:
                self._held.append(held)

    def _preempt(self, numbers: Sequence[int]) -> None:
        """Keeps room for units of a rank that fit once pods of lower priority have ended."""
        if self._preemptor is None:
            return
        self._release_served()
        there = range(numbers[0], numbers[-1] + 1)
        reserved = next((h for h in self._held if h.number in there and h.since), None)
        begun = self._preemptor.begin(numbers, reserved)
        taken = {held.number for held in begun}
        self._held = [*(held for held in self._held if held.number not in taken), *begun]

    def _search(self, numbers: Sequence[int], rank: Sequence[int], share: Budget) -> None:
        """Fits in what best fit left out of `rank`; `numbers` are those of all ranks so far."""
        state, backlog = self._state, self._backlog
        backlog.enroll(range(self._enrolled, numbers[-1] + 1))
        self._enrolled = numbers[-1] + 1
        if not any(state.placed[number] for number in backlog.movable):
            return
        improve(state, backlog, share)
        if not self._is_contended(rank) or not any(node.carved for node in state.nodes):
            return  # where nothing is carved a plan is carried out, which was looked for already
        if self._deadline is not None and self._consult_solver(numbers, self._deadline, share):
            return
        shake(state, backlog, numbers, share, patient=self._deadline is not None)

    def _is_contended(self, numbers: Iterable[int]) -> bool:
        """Whether a unit of these is not placed that could be if others were not."""
        state = self._state
        left = (n for n in numbers if not state.placed[n])
        classes = {state.class_of(pod): None for n in left for pod in state.units[n].pods}
        return any(could_fit(state, pods) for pods in classes)

    def _consult_solver(self, numbers: Sequence[int], deadline: float, share: Budget) -> bool:
        """Places what may be moved as a program over all nodes says, if that is worth more.

        Whether that is the best there is, so that no search finds more.
        """
        from planner.packing.solver.guidance import Advice, guide  # only with the extra `solver`

        state, backlog = self._state, self._backlog
        movable = [number for number in numbers if number in backlog.movable]
        mark = state.checkpoint()
        before = state.total(movable)
        floors = state.gb_by_rank(movable)[: state.rank[numbers[-1]]]
        for number in movable:
            state.unassign(number)
        advice = guide(state, movable, floors, deadline)
        if advice is Advice.TOO_LATE:
            raise _TooLate
        if advice is not Advice.NONE:
            self._fill(movable)
            backlog.enroll(movable)
            improve(state, backlog, share)
            if state.total(movable) > before:
                return advice is Advice.EXACT
        state.rollback(mark)
        backlog.enroll(movable)
        return advice is Advice.EXACT

    def _close_gaps(self, ranks: Sequence[Sequence[int]]) -> None:
        """Places units that a search left out where lower ranks stand, which go elsewhere or wait.

        After it no unit of a rank would fit if all lower ranks were not there, so planning again
        finds nothing to do.
        """
        state = self._state
        everyone = range(len(state.units))
        before, mark = state.total(everyone), state.checkpoint()
        for number in everyone[ranks[0][-1] + 1 :]:
            if number not in state.fixed:
                state.unassign(number)
        for numbers in ranks:
            self._fill(numbers)
        if state.total(everyone) <= before:
            state.rollback(mark)
        self._fill(everyone)

    def _release_served(self) -> None:
        """Keeps nothing any more for units that have a place now."""
        waiting = [held for held in self._held if not self._state.placed[held.number]]
        self._let_go(held for held in self._held if held not in waiting)
        self._held = waiting

    def _let_go(self, kept: Iterable[Held]) -> None:
        for held in kept:
            held.let_go(self._state)

    def _result(self) -> Plan:
        """The plan as it stands, in planned order."""
        state = self._state
        placements = [seating.placement for seating in in_turn(state)]
        self._let_go(self._held)
        waiting = [held for held in self._held if not state.placed[held.number]]
        explainer = RefusalExplainer(state, waiting, self._snapshot.groups)
        refusals = []
        for number in self._lacking(range(len(state.units))):
            refusals += explainer.refusals(number)
        return Plan(
            placements=tuple(placements),
            refusals=tuple(refusals),
            layouts={node.name: state.layout(node) for node in state.nodes if node.carved},
            withdrawn=state.withdrawn(),
            reservations=tuple(each for held in waiting for each in held.reservations(state)),
            preemptions=tuple(held.preemption for held in waiting if held.preemption is not None),
        )
