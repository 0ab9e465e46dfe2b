"""How much work a plan may still take: one account for all of it, counted, not timed.

So a slow machine makes the same plan as a quick one. A unit is about what one cell of a knapsack
costs, a third of a microsecond on one core.
"""

from typing import Final

_LEAST: Final = 2_000_000
_FOR_A_NODE: Final = 2_500
_MOST: Final = 5_000_000

SOLVER_SECONDS: Final = 1.9
"""Of the wall clock, for all that the solver does in one plan: a guard. Where it is not enough, the
plan is made without the solver, so both together take 3 s."""


def work_of(nodes: int, *, solver: bool) -> int:
    """What a plan over so many nodes may take: up to a second or two on one core.

    A few nodes are looked through soon. With the solver it is twice as much.
    """
    return min(_MOST, _LEAST + _FOR_A_NODE * nodes) * (2 if solver else 1)


class Budget:
    """The account; `spend` may overdraw it, `is_spent` is to be asked before each step."""

    def __init__(self, work: int) -> None:
        self.left = work

    def spend(self, work: int) -> None:
        self.left -= work

    @property
    def is_spent(self) -> bool:
        return self.left <= 0

    def share(self, parts: int) -> "Budget":
        """An account of its own with a fair part of what is left, for one of so many that follow.

        What it leaves is to be given back with `settle`.
        """
        part = max(0, self.left) // max(1, parts)
        self.left -= part
        return Budget(part)

    def settle(self, part: "Budget") -> None:
        """Takes back what is left of a share, or what it was overdrawn by."""
        self.left += part.left
