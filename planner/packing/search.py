"""What greedy missed: pods that could be placed if others stood elsewhere or waited instead.

Nodes are emptied of what this pass put there and filled anew, one by one and then in pairs; a step
that does not raise the plan's worth is taken back. The budget is counted in work, so that the same
input gives the same plan on a slow machine.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from planner.packing.books import NodeBook
from planner.packing.draft import Draft
from planner.packing.refill import Waiting, refill
from planner.packing.shapes import Shape

BUDGET: Final = 1_200_000
"""Cells of knapsacks that may be computed in one plan: a second or so on one core."""

_SWEEPS: Final = 3
_STRIDE: Final = 7
_RICH: Final = 256  # nodes with much left that are paired with those that have room


def improve(draft: Draft, numbers: Sequence[int], budget: int) -> int:
    """Raises what the units are worth; `numbers` are those of the ranks that count so far.

    Returns what is left of the budget.
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
    return list(nodes.values())


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


def step(draft: Draft, waiting: Waiting, nodes: Iterable[NodeBook]) -> bool:
    """Fills the nodes anew; whether that was worth it. If not, everything is as it was."""
    nodes = list(nodes)
    moved = [n for node in nodes for n in draft.on[node.order] if n in waiting.movable]
    before = draft.worth(moved)
    held = {}
    for number in moved:
        held[number] = draft.take_back(number)
        waiting.add(number)
    seated = [number for node in nodes for number in refill(draft, waiting, node)]
    for number in moved:
        if not draft.seated[number] and draft.place(number):
            waiting.discard(number)
            seated.append(number)
    if draft.worth(seated) > before:
        return True
    for number in seated:
        draft.take_back(number)
        waiting.add(number)
    for number in moved:
        waiting.discard(number)
        draft.restore(number, held[number])
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
