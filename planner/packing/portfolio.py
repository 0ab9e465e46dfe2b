"""Other orders than first come, first served: when not everything fits, one may fit more."""

from collections.abc import Sequence
from typing import Final

from planner.packing.draft import Draft
from planner.packing.greedy import Choose, strand_aware
from planner.packing.pools import tightest

_RUNS: Final = 900
"""How many units may be placed in all runs of one rank: a big rank has fewer runs."""

_STRANDED: Final = 0.05
"""So large a part of the room that is left must lack CPU, or nothing is done about that."""


def best_order(draft: Draft, numbers: Sequence[int]) -> None:
    """Seats the units of one rank in the order that is worth most; as they were where none is.

    Who keeps to an earlier plan is left where it is: a little more worth would move everybody.
    """
    free = [number for number in numbers if number not in draft.fixed]
    runs = _runs(draft, free)
    if not runs:
        return
    best, kept = draft.worth(free), draft.arrangement(free)
    better = False  # than all before, so that it can stay
    for order, choose in runs:
        draft.clear(free)
        draft.fill(order, choose)
        worth = draft.worth(free)
        better = worth > best
        if better:
            best, kept = worth, draft.arrangement(free)
    if not better:
        draft.rearrange(kept)


def _runs(draft: Draft, numbers: Sequence[int]) -> Sequence[tuple[Sequence[int], Choose]]:
    """Orders, and how to choose in each; the most promising first, and no more than there may be.

    A big rank has one run in spite of its size where so much memory lacks CPU that it pays.
    """
    units = draft.units

    def cpu(number: int) -> int:
        return sum(pod.requests.cpu_milli for pod in units[number].pods)

    most = _RUNS // max(1, len(numbers))
    asked = sum(cpu(number) for number in numbers) / max(1, sum(units[n].gb for n in numbers))
    stranded = asked > 0 and _is_stranded(draft, asked)
    if most < 2:
        return [(numbers, strand_aware(asked))] if stranded else []
    large_first = sorted(numbers, key=lambda number: -units[number].gb)
    runs: list[tuple[Sequence[int], Choose]] = [(large_first, tightest)]
    if asked:
        lean_first = sorted(numbers, key=lambda number: cpu(number) / max(1, units[number].gb))
        runs.append((lean_first, tightest))
    if stranded:
        aware = strand_aware(asked)
        runs = [(numbers, aware), *runs, (large_first, aware)]
    return runs[:most]


def _is_stranded(draft: Draft, cpu_per_gb: float) -> bool:
    """Whether much of the memory that is left where units were seated has no CPU to use it."""
    nodes = [node for node in draft.ledger.nodes if draft.on[node.order]]
    lacking = sum(max(0.0, node.room - max(node.cpu, 0) / cpu_per_gb) for node in nodes)
    return lacking > _STRANDED * sum(node.room for node in nodes)
