"""What greedy missed: pods that could be placed if others stood elsewhere or waited instead.

Nodes are emptied of what this pass put there and filled anew, first one by one and then in pairs as
the dice choose; a step that lowers the plan's worth is not taken. It ends when the budget of those
who wait is spent, which is counted in work, so that a slow machine makes the same plan.
"""

from collections.abc import Iterable, Sequence
from operator import ge, gt
from random import Random
from typing import Final

from planner.packing.books import NodeBook
from planner.packing.draft import Draft, Worth
from planner.packing.greedy import fits_beside
from planner.packing.refill import refill
from planner.packing.shapes import Shape
from planner.packing.waiting import Waiting

_FEW: Final = 32  # nodes on which a thorough search costs little
_THROWS: Final = 500  # of the dice for them, in a round
_THROWS_OF_MANY: Final = 125  # at least, and one for every node
_VAIN: Final = 12  # throws in a row that gain nothing end a round; one for every ten nodes, if more
_OTHERS: Final = 3  # nodes at most that they are filled anew beside
_MUCH: Final = 200  # this part of what waits has to be fitted in, or it is not worth another round


def improve(draft: Draft, waiting: Waiting) -> None:
    """Fills every node anew, one by one, the most room first.

    A second sweep finds next to nothing that `shake` would not.
    """
    for node in _with_room(_within_reach(draft, waiting)):
        if waiting.budget < 0:
            return
        step(draft, waiting, [node])


def shake(draft: Draft, waiting: Waiting, numbers: Sequence[int], *, patient: bool) -> bool:
    """Fills some nodes anew that the dice choose, one of which has room; whether that gained a gb.

    `numbers` are the units of the ranks that count so far. It finds what needs several pods to
    move at once. On many nodes pairs find most for the work, and who is not patient ends a round
    in which many throws in a row gained nothing.
    """
    dice = Random(0)  # noqa: S311  the same throws every time, so that plans are the same
    nodes = _within_reach(draft, waiting)
    few = len(nodes) <= _FEW
    throws, others = (_THROWS, _OTHERS) if few else (max(_THROWS_OF_MANY, len(nodes)), 1)
    patience = throws if few or patient else max(_VAIN, len(nodes) // 10)
    at_first = worth = draft.worth(numbers)
    while nodes and waiting.budget >= 0:
        vain = 0
        for throw in range(throws):
            if throw % len(nodes) == 0:
                with_room = _with_room(nodes)
            if not with_room or waiting.budget < 0:
                break
            first = dice.choice(with_room)
            beside = dice.sample(nodes, min(len(nodes), dice.randint(1, others)))
            chosen = [first, *(node for node in beside if node is not first)]
            vain = 0 if step(draft, waiting, chosen, dice) else vain + 1
            if vain == patience:
                break
        before, worth = worth, draft.worth(numbers)
        if not _much_gained(draft, numbers, before, worth):
            break
    return worth > at_first


def _much_gained(draft: Draft, numbers: Sequence[int], before: Worth, after: Worth) -> bool:
    """Whether the first rank that changed got in as large a part of what waits as is worth it."""
    gained = next((now - then for then, now in zip(before, after, strict=True) if now != then), 0)
    waiting = sum(draft.units[number].gb for number in numbers if not draft.seated[number])
    return gained * _MUCH > waiting


def could_fit(draft: Draft, shape: Shape) -> bool:
    """Whether a pod of the shape would fit if something that this pass seated were not there."""
    wants = shape.pod.requests
    for node in shape.pool.nodes:
        idle = node.state.idle
        if (
            draft.on[node.order]
            and idle.cpu_milli >= shape.cpu
            and idle.memory >= shape.memory
            and idle.ephemeral >= wants.ephemeral
            and any(_room_at_start(node, index) >= shape.largest for index in range(len(node.gpus)))
        ):
            return True
    return False


def _room_at_start(node: NodeBook, index: int) -> int:
    gpu = node.gpus[index]
    return 0 if gpu.closed else gpu.room + sum(size * n for size, n in gpu.claims.items())


def _within_reach(draft: Draft, waiting: Waiting) -> list[NodeBook]:
    """Nodes that somebody who waits may use, and where somebody is or has the CPU to be."""
    least = waiting.least_cpu()
    nodes = {
        node.order: node
        for pool in waiting.pools()
        for node in pool.nodes
        if draft.on[node.order] or max(node.cpu, 0) >= least
    }
    return [nodes[order] for order in sorted(nodes)]


def _with_room(nodes: Iterable[NodeBook]) -> list[NodeBook]:
    """Those with room, the most first: there something can be gained."""
    return sorted((n for n in nodes if n.room > 0), key=lambda node: (-node.room, node.order))


def step(
    draft: Draft,
    waiting: Waiting,
    nodes: Sequence[NodeBook],
    dice: Random | None = None,
) -> bool:
    """Fills the nodes anew; whether that was worth it. If not, everything is as it was.

    With `dice` the GPUs take turns as it falls, and what is worth the same is kept as well: from
    there other steps lead on.
    """
    moved = [[n for n in draft.on[node.order] if n in waiting.movable] for node in nodes]
    out = [number for units in moved for number in units]
    for number in out:
        waiting.add(number)
    filling = refill(draft, waiting, nodes, moved, dice)
    before = waiting.worth(out)
    suffices = gt if dice is None else ge
    hoped_for = waiting.worth(filling)
    left = [number for number in out if number not in filling]
    if not suffices(hoped_for, before):
        elsewhere = (n for n in left if fits_beside(draft.ledger, draft.units[n].pods[0], nodes))
        hoped_for = waiting.worth([*filling, *elsewhere])
    if suffices(hoped_for, before):
        held = draft.clear(out)
        for number, gpu in filling.items():
            waiting.discard(number)
            draft.seat(number, gpu)
        for number in left:
            if draft.place(number):
                waiting.discard(number)
        seated = [*filling, *(number for number in left if draft.seated[number])]
        after = waiting.worth(seated)
        if suffices(after, before):
            return after > before
        draft.clear(seated)
        for number in seated:
            waiting.add(number)
        draft.rearrange(held)
    for number in out:
        waiting.discard(number)
    return False


def seniors_first(draft: Draft) -> None:
    """Of pods that are alike the older ones are placed: a search looks at GB only."""
    alike: dict[tuple[int, Shape], list[int]] = {}
    for number in range(len(draft.units)):
        if draft.is_movable(number):
            shape = draft.ledger.shape(draft.units[number].pods[0])
            alike.setdefault((draft.rank[number], shape), []).append(number)
    for numbers in alike.values():
        out = [number for number in numbers if not draft.seated[number]]
        placed = [number for number in numbers if draft.seated[number]]
        for older, younger in zip(out, reversed(placed), strict=False):
            if older > younger:
                break
            gpus = draft.take_back(younger)[0].gpus
            draft.seat(older, gpus[0])
