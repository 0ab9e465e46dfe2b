"""Of plans that place the same pods the one that changes least: fewest nodes written, then fewest
free slices withdrawn.

Best fit looks at one pod after the other; here several are looked at together. A few are tried in
all ways. Of many, the pods of a node that is written for few of them go to nodes that are written
anyway, or those of several written nodes to one.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import is_
from typing import Final

from planner.packing.books import GpuBook, NodeBook
from planner.packing.budget import Budget
from planner.packing.classes import PodClass
from planner.packing.fit import Choose, place, ways_on
from planner.packing.state import State

_ALL_WAYS: Final = 8  # units that are tried in all ways
_NODES: Final = 12  # on so many nodes
_WAYS: Final = 32  # of a pod of several slices, on one node
_WORK: Final = 60_000  # of all ways
_STEP: Final = 15  # cells that a try costs
_FEW: Final = 4  # units on a node that are tried to be moved
_GATHERED: Final = 12  # units on a node that may go to another one with those of others
_MOVES: Final = 400
_LOOK: Final = 32  # GPUs looked at for one
_WRITTEN: Final = 8  # nodes from which units may be gathered
_TARGETS: Final = 8  # nodes that the units of several are gathered on

Cost = tuple[int, int]
"""Nodes written, free slices withdrawn."""

_Goes = Callable[[NodeBook], bool]
"""Whether units may go to the node."""


def change_least(state: State, budget: Budget) -> None:
    """Moves units so that less is changed; none is left out for it, and none under way moves."""
    written = [node for node in state.nodes if node.carved]
    if not written or (len(written) == 1 and not state.withdrawn(written)):
        return
    on_them = sum([len(state.on[node.order]) for node in written])
    if on_them <= _ALL_WAYS + len(state.fixed):
        numbers = sorted({n for w in written for n in state.on[w.order] if _is_free(state, n)})
        nodes = _targets(state, numbers, written)
        if len(numbers) <= _ALL_WAYS and len(nodes) <= _NODES:
            _AllWays(state, numbers, nodes, budget).run()
            return
    _Moves(state, written).run()


def _is_free(state: State, number: int) -> bool:
    """Whether the unit may stand elsewhere: a lone pod that nobody was told of yet."""
    return number not in state.fixed and state.is_alone(number)


def _targets(state: State, numbers: Sequence[int], written: Sequence[NodeBook]) -> list[NodeBook]:
    """The written nodes, and of the others that could hold one of the units the roomiest."""
    found = {node.order: node for node in written}
    others = {
        node.order: node
        for number in numbers
        for node in state.candidates(state.class_of(state.units[number].pods[0])).nodes
        if node.order not in found and node.room > 0
    }
    roomy = sorted(others.values(), key=lambda node: (-node.room, node.order))
    if len(found) + len(roomy) <= _NODES:
        return [*written, *roomy]
    tight = sorted(roomy[_TARGETS // 2 :], key=lambda node: (node.room, node.order))
    more = max(0, _NODES - len(found))
    half = (more + 1) // 2
    return [*written, *roomy[: more - half], *tight[:half]] if more else list(written)


class _AllWays:
    """Depth first over units and GPUs, cut off where it cannot become better any more."""

    def __init__(
        self, state: State, numbers: Sequence[int], nodes: Sequence[NodeBook], budget: Budget
    ) -> None:
        self._state = state
        self._numbers = sorted(numbers, key=lambda n: (-state.units[n].gb, n))
        self._nodes = nodes
        self._budget = budget
        self._work = min(_WORK, budget.left)
        self._best = self._cost()
        self._found: list[tuple[int, tuple[GpuBook, ...]]] | None = None
        self._chosen: list[tuple[int, tuple[GpuBook, ...]]] = []

    def _cost(self) -> Cost:
        written = [node for node in self._state.nodes if node.carved]
        return len(written), self._state.withdrawn(written)

    def run(self) -> None:
        state = self._state
        before = self._work
        mark = state.checkpoint()
        for number in self._numbers:
            state.unassign(number)
        written = [node for node in state.nodes if node.carved]
        self._try(0, (len(written), state.withdrawn(written)))
        self._budget.spend(before - self._work)
        state.rollback(mark)
        if self._found is None:
            return
        for number, _ in self._found:
            state.unassign(number)
        for number, gpus in self._found:
            pod = state.units[number].pods[0]
            seating = state.book(pod, state.class_of(pod), gpus[0].node, gpus)
            state.put(number, (seating,))

    def _try(self, turn: int, cost: Cost) -> None:
        if cost >= self._best or self._work <= 0:
            return
        if turn == len(self._numbers):
            self._best, self._found = cost, list(self._chosen)
            return
        number = self._numbers[turn]
        state = self._state
        pod = state.units[number].pods[0]
        pods = state.class_of(pod)
        tried = []
        for gpus in self._ways(pods):
            self._work -= _STEP
            node = gpus[0].node
            before = self._cost_on(node)
            seating = state.book(pod, pods, node, gpus)
            after = self._cost_on(node)
            tried.append(((cost[0] + after[0] - before[0], cost[1] + after[1] - before[1]), gpus))
            state.unbook(seating)
        tried.sort(key=lambda way: way[0])  # stable: of like ones the tighter first
        for there, gpus in tried:
            if there >= self._best or self._work <= 0:
                return
            self._work -= _STEP
            seating = state.book(pod, pods, gpus[0].node, gpus)
            self._chosen.append((number, gpus))
            self._try(turn + 1, there)
            self._chosen.pop()
            state.unbook(seating)

    def _cost_on(self, node: NodeBook) -> Cost:
        return int(node.carved > 0), self._state.withdrawn((node,))

    def _ways(self, pods: PodClass) -> Iterator[tuple[GpuBook, ...]]:
        """Where it fits; of GPUs of a node that are alike only one."""
        orders = self._state.candidates(pods).orders
        for node in self._nodes:
            if node.order not in orders or not pods.fits(node):
                continue
            if pods.single:
                seen: set[object] = set()
                for gpu in sorted(node.gpus, key=lambda gpu: (gpu.reclaimable, gpu.index)):
                    alike = (gpu.room, gpu.count, tuple(sorted(gpu.free.items())))
                    if gpu.reclaimable >= pods.largest and alike not in seen:
                        seen.add(alike)
                        yield (gpu,)
            else:
                yield from ways_on(node, pods, _WAYS, carve=True)


class _Moves:
    """Single moves from node to node."""

    def __init__(self, state: State, written: Sequence[NodeBook]) -> None:
        self._state = state
        self._left = _MOVES
        self._written = sorted(written, key=lambda n: (len(state.on[n.order]), n.order))

    def run(self) -> None:
        if len(self._written) <= _WRITTEN:
            self._gather()
        for node in self._written:
            numbers = list(self._state.on[node.order])
            if not node.carved or not self._may_move(numbers, _FEW):
                continue
            self._empty(node, numbers, partial(_is_written_beside, node))

    def _may_move(self, numbers: Sequence[int], most: int) -> bool:
        return 0 < len(numbers) <= min(most, self._left) and all(
            _is_free(self._state, number) for number in numbers
        )

    def _empty(self, node: NodeBook, numbers: Sequence[int], goes: _Goes) -> bool:
        """Moves a node's units to nodes where they may go; whether all of them could."""
        state = self._state
        self._left -= len(numbers)
        before = state.withdrawn()
        mark = state.checkpoint()
        for number in numbers:
            state.unassign(number)
        choose = _choose(goes)
        if all(place(state, n, choose) for n in numbers) and (
            not state.standing or state.withdrawn() <= before or not node.carved
        ):
            return True
        state.rollback(mark)
        return False

    def _gather(self) -> None:
        """Has the units of two or more written nodes on one that is written for all of them."""
        state = self._state
        small = [n for n in self._written if self._may_move(list(state.on[n.order]), _GATHERED)]
        if len(small) < 2:
            return
        nodes = (node for node in state.nodes if not node.carved and node.room > 0)
        for target in sorted(nodes, key=lambda node: (-node.room, node.order))[:_TARGETS]:
            mark = state.checkpoint()
            emptied = 0
            for node in small:
                numbers = list(state.on[node.order])
                if node.carved and self._may_move(numbers, _GATHERED):
                    emptied += self._empty(node, numbers, partial(is_, target))
            if emptied >= 2:
                return
            state.rollback(mark)


def _is_written_beside(node: NodeBook, other: NodeBook) -> bool:
    return other.carved > 0 and other is not node


def _choose(goes: _Goes) -> Choose:
    def choose(gpus: Iterator[GpuBook], _pods: PodClass) -> GpuBook | None:
        for gpu, _ in zip(gpus, range(_LOOK), strict=False):
            if goes(gpu.node):
                return gpu
        return None

    return choose
