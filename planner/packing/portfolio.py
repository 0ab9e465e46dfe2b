"""Other orders than first come, first served: when not everything fits, one may fit more."""

from collections.abc import Iterator, Sequence
from itertools import islice
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

    Who keeps to an earlier plan is left where it is: a little more worth would move everybody. A
    rank that is too big for it has a run for each that only another order helps: memory that lacks
    CPU, and groups and pods of several slices, who are not moved where nodes are filled anew.
    """
    free = [number for number in numbers if number not in draft.fixed]
    cpu = sum(_cpu(draft, number) for number in free)
    cpu_per_gb = cpu / max(1, sum(draft.units[number].gb for number in free))
    stranded = cpu > 0 and _is_stranded(draft, cpu_per_gb)
    unmoved = not all(map(draft.is_movable, free))
    most = max(_RUNS // max(1, len(free)), stranded + unmoved)
    if not most:
        return
    best, kept = draft.worth(free), draft.arrangement(free)
    better = False  # than all before, so that it can stay
    for order, choose in islice(_runs(draft, free, cpu_per_gb, stranded=stranded), most):
        draft.clear(free)
        draft.fill(order, choose)
        worth = draft.worth(free)
        better = worth > best
        if better:
            best, kept = worth, draft.arrangement(free)
    if not better:
        draft.rearrange(kept)


def _runs(
    draft: Draft, numbers: Sequence[int], cpu_per_gb: float, *, stranded: bool
) -> Iterator[tuple[Sequence[int], Choose]]:
    """Orders, and how to choose in each; the most promising first, sorted only when it is tried."""
    units = draft.units
    if stranded:
        yield numbers, strand_aware(cpu_per_gb)
    large_first = sorted(numbers, key=lambda number: -units[number].gb)
    yield large_first, tightest
    if cpu_per_gb > 0:
        yield sorted(numbers, key=lambda n: _cpu(draft, n) / max(1, units[n].gb)), tightest
    if stranded:
        yield large_first, strand_aware(cpu_per_gb)


def _cpu(draft: Draft, number: int) -> int:
    return sum(pod.requests.cpu_milli for pod in draft.units[number].pods)


def _is_stranded(draft: Draft, cpu_per_gb: float) -> bool:
    """Whether much of the memory that is left where units were seated has no CPU to use it."""
    nodes = [node for node in draft.ledger.nodes if draft.on[node.order]]
    lacking = sum(max(0.0, node.room - max(node.cpu, 0) / cpu_per_gb) for node in nodes)
    return lacking > _STRANDED * sum(node.room for node in nodes)
