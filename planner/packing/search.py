"""What greedy missed: pods that could be placed if others stood elsewhere or waited instead.

Nodes are emptied of what this pass put there and filled anew, one by one and then in pairs; a step
that does not raise the plan's worth is taken back. The budget is counted in work, so that the same
input gives the same plan on a slow machine.
"""

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Final

from planner.packing.books import GpuBook, NodeBook
from planner.packing.draft import Draft
from planner.packing.refill import Waiting, refill
from planner.packing.shapes import Shape

BUDGET: Final = 1_200_000
"""Cells of knapsacks that may be computed in one plan: a second or so on one core."""

_SWEEPS: Final = 3
_SHAKES: Final = 600
_STRIDE: Final = 7
_RICH: Final = 256  # nodes with much left that are paired with those that have room


def improve(draft: Draft, numbers: Sequence[int], budget: int) -> int:
    """Raises what the units are worth, step by step, as long as a whole sweep gains something.

    `numbers` are the units of the ranks that count so far. Returns what is left of the budget.
    """
    waiting = Waiting(draft, numbers)
    for sweep in (_singly, _pairs):
        for turn in range(_SWEEPS):
            gained = False
            for nodes in sweep(_within_reach(waiting), turn):
                if waiting.work > budget:
                    return 0
                gained |= step(draft, waiting, nodes)
            if not gained:
                break
    return budget - waiting.work


def shake(draft: Draft, numbers: Sequence[int], budget: int) -> int:
    """Fills a few nodes anew that the dice choose, one of which has room; as `improve` otherwise.

    It finds what needs several pods to move at once, which pays on few nodes.
    """
    dice = Random(0)  # noqa: S311  the same throws every time, so that plans are the same
    waiting = Waiting(draft, numbers)
    nodes = _within_reach(waiting)
    idle = 0
    for _ in range(_SHAKES):
        with_room = _with_room(nodes)
        if not with_room or waiting.work > budget or idle > _SHAKES // 2:
            break
        first = dice.choice(with_room)
        others = dice.sample(nodes, min(len(nodes), dice.randint(1, 3)))
        chosen = [first, *(node for node in others if node is not first)]
        idle = 0 if step(draft, waiting, chosen, dice) else idle + 1
    return max(0, budget - waiting.work)


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


def _within_reach(waiting: Waiting) -> list[NodeBook]:
    """Nodes that somebody who waits may use."""
    nodes = {node.order: node for pool in waiting.pools() for node in pool.nodes}
    return [nodes[order] for order in sorted(nodes)]


def _with_room(nodes: Iterable[NodeBook]) -> list[NodeBook]:
    """Those with room, the most first: there something can be gained."""
    return sorted((n for n in nodes if n.room > 0), key=lambda node: (-node.room, node.order))


def _singly(nodes: Sequence[NodeBook], _turn: int) -> Iterator[list[NodeBook]]:
    return ([node] for node in _with_room(nodes))


def _pairs(nodes: Sequence[NodeBook], turn: int) -> Iterator[list[NodeBook]]:
    """Each node with room beside one that has much CPU left, another one each turn."""
    rich = sorted(nodes, key=lambda node: (-node.cpu, node.order))[:_RICH]
    for number, node in enumerate(_with_room(nodes)):
        other = rich[(number + turn * _STRIDE) % len(rich)]
        if other is not node:
            yield [node, other]


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
    moved = [n for node in nodes for n in draft.on[node.order] if n in waiting.movable]
    before = draft.worth(moved)
    held = draft.clear(moved)
    for number in moved:
        waiting.add(number)
    gpus = [gpu for node in nodes for gpu in _tightest_first(node)]
    if dice is not None:
        dice.shuffle(gpus)
    seated = refill(draft, waiting, gpus, even=dice is None or dice.random() < 0.5)
    for number in moved:
        if not draft.seated[number] and draft.place(number):
            waiting.discard(number)
            seated.append(number)
    after = draft.worth(seated)
    if after > before or (dice is not None and after == before):
        return after > before
    for number in seated:
        draft.take_back(number)
        waiting.add(number)
    for number in moved:
        waiting.discard(number)
    draft.rearrange(held)
    return False


def _tightest_first(node: NodeBook) -> list[GpuBook]:
    return sorted(node.gpus, key=lambda gpu: (gpu.reclaimable, gpu.index))


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
