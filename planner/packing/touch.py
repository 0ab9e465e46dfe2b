"""Fewer nodes written: what one was carved for alone goes where others are written anyway."""

from collections.abc import Iterator
from typing import Final

from planner.packing.books import GpuBook, NodeBook
from planner.packing.draft import Draft
from planner.packing.shapes import Shape

_FEW: Final = 4  # units on a node that are tried to be moved
_MOVES: Final = 400
_LOOK: Final = 32  # GPUs looked at for one


def spare_nodes(draft: Draft) -> None:
    """Moves the units of nodes that are written for few of them to other written nodes."""
    written = sorted(
        (node for node in draft.ledger.nodes if node.carved),
        key=lambda node: (len(draft.on[node.order]), node.order),
    )
    left = _MOVES
    for node in written:
        numbers = list(draft.on[node.order])
        if len(numbers) > min(_FEW, left) or len(written) < 2:
            break
        if all(_may_move(draft, number) for number in numbers):
            left -= len(numbers)
            _move_away(draft, node, numbers)


def _may_move(draft: Draft, number: int) -> bool:
    """Not who is where an earlier plan wanted it: that one's writes may be under way."""
    return draft.is_movable(number) and not draft.units[number].pods[0].nominated


def _move_away(draft: Draft, node: NodeBook, numbers: list[int]) -> None:
    def choose(gpus: Iterator[GpuBook], shape: Shape) -> GpuBook | None:
        for gpu, _ in zip(gpus, range(_LOOK), strict=False):
            other = gpu.node
            if other.carved and other is not node and shape.fits(other):
                return gpu
        return None

    held = draft.clear(numbers)
    if not all(draft.place(number, choose) for number in numbers):
        draft.rearrange(held)
        draft.ledger.epoch += 1  # who may not move to these nodes may well fit elsewhere
