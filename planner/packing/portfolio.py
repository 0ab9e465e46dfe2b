"""Other orders than first come, first served: when not everything fits, one may fit more."""

from collections.abc import Sequence
from typing import Final

from planner.packing.draft import Draft
from planner.packing.greedy import Choose, strand_aware, tightest

_RUNS: Final = 1_500
"""How many units may be placed in all runs of one rank: a big rank has fewer runs, but one."""


def best_order(draft: Draft, numbers: Sequence[int]) -> None:
    """Seats the units of one rank in the order that is worth most; as they were where none is.

    Who keeps to an earlier plan is left where it is: a little more worth would move everybody.
    """
    free = [number for number in numbers if number not in draft.fixed]
    best, kept = draft.worth(free), draft.arrangement(free)
    better = True  # than all before, so that it can stay
    for order, choose in _runs(draft, free)[: max(1, _RUNS // max(1, len(free)))]:
        draft.clear(free)
        draft.fill(order, choose)
        worth = draft.worth(free)
        better = worth > best
        if better:
            best, kept = worth, draft.arrangement(free)
    if not better:
        draft.rearrange(kept)


def _runs(draft: Draft, numbers: Sequence[int]) -> list[tuple[Sequence[int], Choose]]:
    units = draft.units

    def cpu(number: int) -> int:
        return sum(pod.requests.cpu_milli for pod in units[number].pods)

    large_first = sorted(numbers, key=lambda number: -units[number].gb)
    lean_first = sorted(numbers, key=lambda number: cpu(number) / max(1, units[number].gb))
    asked = sum(cpu(number) for number in numbers) / max(1, sum(units[n].gb for n in numbers))
    if asked == 0:
        return [(large_first, tightest)]
    aware = strand_aware(asked)
    return [(numbers, aware), (large_first, tightest), (lean_first, tightest), (large_first, aware)]
