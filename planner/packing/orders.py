"""Other orders than first come, first served: when not everything fits, one may fit more."""

from collections.abc import Iterator, Sequence
from typing import Final

from planner.packing.fit import Choose, fill, strand_aware, tightest
from planner.packing.state import State

_STRANDED: Final = 0.05
"""So large a part of the room that is left must lack CPU, or nothing is done about that."""


def best_order(state: State, numbers: Sequence[int]) -> int:
    """Places the units of one rank in the order that is worth most; how many it placed for that.

    What is under way stays. There is a run for each that only another order helps: memory that
    lacks CPU, and groups and pods of several slices, which are not moved where nodes are filled
    again.
    """
    free = [number for number in numbers if number not in state.fixed]
    runs = list(_runs(state, free))
    for order, choose in runs:
        before, mark = state.total(free), state.checkpoint()
        for number in free:
            state.unassign(number)
        fill(state, order, choose)
        if state.total(free) <= before:
            state.rollback(mark)
    return len(runs) * len(free)


def _runs(state: State, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Choose]]:
    """Orders, and how to choose in each."""
    units = state.units
    cpu_per_gb = sum([_cpu(state, n) for n in numbers]) / max(1, sum(units[n].gb for n in numbers))
    if cpu_per_gb > 0 and _is_stranded(state, cpu_per_gb):
        yield numbers, strand_aware(cpu_per_gb)
    if not all(map(state.is_movable, numbers)):
        yield sorted(numbers, key=lambda number: -units[_group(state, number)].gb), tightest


def _group(state: State, number: int) -> int:
    """The group that has to be placed before the unit, or else the unit itself."""
    return state.after.get(number, number)


def _cpu(state: State, number: int) -> int:
    return sum([pod.requests.cpu_milli for pod in state.units[number].pods])


def _is_stranded(state: State, cpu_per_gb: float) -> bool:
    """Whether much of the memory that is left where units were placed has no CPU to use it."""
    nodes = [node for node in state.nodes if state.on[node.order]]
    lacking = sum([max(0.0, node.room - max(node.cpu, 0) / cpu_per_gb) for node in nodes])
    return lacking > _STRANDED * sum([node.room for node in nodes])
