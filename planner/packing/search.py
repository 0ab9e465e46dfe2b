"""What best fit missed: pods that could be placed if others stood elsewhere or waited instead.

Nodes are emptied of what this plan put there and filled again, first one by one and then in pairs
as the dice choose; a step that lowers the plan's value is taken back. It ends when the budget is
spent, which is counted in work, so that a slow machine makes the same plan.
"""

from collections.abc import Iterable, Sequence
from operator import ge, gt
from random import Random
from typing import Final

from planner.packing.backlog import Backlog
from planner.packing.books import NodeBook
from planner.packing.budget import Budget
from planner.packing.classes import PodClass
from planner.packing.fit import fits_beside, place
from planner.packing.knapsack import refill
from planner.packing.state import State

_FEW: Final = 32  # nodes on which a thorough search costs little
_THROWS: Final = 1500  # of the dice for them, in a round
_THROWS_FOR_ONE: Final = 40  # of the dice for each unit that may be moved, where that is less
_THROWS_OF_MANY: Final = 125  # at least, and one for every node
_USELESS: Final = 12  # throws in a row without gain end a round; one for every ten nodes, if more
_OTHERS: Final = 3  # nodes at most that they are filled again beside
_MUCH: Final = 200  # this part of what waits has to be fitted in, or it is not worth another round


def improve(state: State, backlog: Backlog, budget: Budget) -> None:
    """Fills every node again, one by one, the most room first.

    A second sweep finds next to nothing that `shake` would not.
    """
    for node in _with_room(_within_reach(state, backlog)):
        if budget.is_spent:
            return
        step(state, backlog, [node], budget)


def shake(
    state: State, backlog: Backlog, numbers: Sequence[int], budget: Budget, *, patient: bool
) -> None:
    """Fills some nodes again that the dice choose, one of which has room.

    `numbers` are the units of the ranks that count so far. It finds what needs several pods to
    move at once. On many nodes pairs find most for the work, and unless it is patient a round ends
    in which many throws in a row gained nothing. Where no gb was gained nobody has moved.
    """
    dice = Random(0)  # noqa: S311  the same throws every time, so that plans are the same
    nodes = _within_reach(state, backlog)
    few = len(nodes) <= _FEW
    throws, others = max(_THROWS_OF_MANY, len(nodes)), 1
    if few:
        throws, others = min(_THROWS, _THROWS_FOR_ONE * len(backlog.movable)), _OTHERS
    patience = throws if few or patient else max(_USELESS, len(nodes) // 10)
    mark = state.checkpoint()
    gained = 0
    while nodes and not budget.is_spent:
        useless = in_round = 0
        for throw in range(throws):
            if throw % len(nodes) == 0:
                with_room = _with_room(nodes)
            if not with_room or budget.is_spent:
                break
            first = dice.choice(with_room)
            beside = dice.sample(nodes, min(len(nodes), dice.randint(1, others)))
            chosen = [first, *(node for node in beside if node is not first)]
            gain = step(state, backlog, chosen, budget, dice)
            in_round += gain
            useless = 0 if gain else useless + 1
            if useless == patience:
                break
        gained += in_round
        if not in_round or not _much_gained(state, numbers, in_round):
            break
    if not gained:
        backlog.enroll(state.rollback(mark))


def _much_gained(state: State, numbers: Sequence[int], gain: int) -> bool:
    """Whether the first rank that gained got in as large a part of what waits as is worth it."""
    waiting = sum([state.units[number].gb for number in numbers if not state.placed[number]])
    return state.gb_of_first_rank(gain) * _MUCH > waiting


def could_fit(state: State, pods: PodClass) -> bool:
    """Whether a pod of the class would fit if something that this plan placed were not there."""
    wants = pods.pod.requests
    candidates = state.candidates(pods)
    if pods.largest > candidates.largest:
        return False
    for node in candidates.nodes:
        idle = node.state.idle
        if (
            state.on[node.order]
            and idle.cpu_milli >= pods.cpu
            and idle.memory >= pods.memory
            and idle.ephemeral >= wants.ephemeral
            and any(_room_at_start(node, index) >= pods.largest for index in range(len(node.gpus)))
        ):
            return True
    return False


def _room_at_start(node: NodeBook, index: int) -> int:
    gpu = node.gpus[index]
    return gpu.room + sum([size * n for size, n in gpu.claims.items()])


def _within_reach(state: State, backlog: Backlog) -> list[NodeBook]:
    """Nodes that somebody who waits may use, and where somebody is or has the CPU to be."""
    least = backlog.least_cpu
    nodes = {
        node.order: node
        for candidates in backlog.candidates()
        for node in candidates.nodes
        if state.on[node.order] or max(node.cpu, 0) >= least
    }
    return [nodes[order] for order in sorted(nodes)]


def _with_room(nodes: Iterable[NodeBook]) -> list[NodeBook]:
    """Those with room, the most first: there something can be gained."""
    return sorted((n for n in nodes if n.room > 0), key=lambda node: (-node.room, node.order))


def step(
    state: State,
    backlog: Backlog,
    nodes: Sequence[NodeBook],
    budget: Budget,
    dice: Random | None = None,
) -> int:
    """Fills the nodes again; what that gained. If it lost, everything is as it was.

    With `dice` the GPUs take turns as it falls, and what is worth the same is kept as well: from
    there other steps lead on.
    """
    moved = [[n for n in state.on[node.order] if n in backlog.movable] for node in nodes]
    out = [number for units in moved for number in units]
    for number in out:
        backlog.add(number)
    filling = refill(state, backlog, nodes, moved, budget, dice)
    before = backlog.value(out)
    suffices = gt if dice is None else ge
    hoped_for = backlog.value(filling)
    left = [number for number in out if number not in filling]
    if not suffices(hoped_for, before):
        elsewhere = (n for n in left if fits_beside(state, state.units[n].pods[0], nodes))
        hoped_for = backlog.value([*filling, *elsewhere])
    if suffices(hoped_for, before):
        mark = state.checkpoint()
        for number in out:
            state.unassign(number)
        for number, gpu in filling.items():
            backlog.discard(number)
            pods = backlog.movable[number]
            pod = state.units[number].pods[0]
            state.put(number, (state.book(pod, pods, gpu.node, (gpu,)),))
        for number in left:
            if place(state, number):
                backlog.discard(number)
        seated = [*filling, *(number for number in left if state.placed[number])]
        after = backlog.value(seated)
        if suffices(after, before):
            return after - before
        for number in seated:
            backlog.add(number)
        state.rollback(mark)
    for number in out:
        backlog.discard(number)
    return 0
