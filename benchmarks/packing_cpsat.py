"""The optimum of the objective's first part by CP-SAT: a second opinion on what HiGHS proves.

The model is the plain one, and no code is shared. Pods that are alike and slices of a size are
counted, not told apart, which leaves CP-SAT few symmetries to wade through.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from ortools.sat.python import cp_model

from benchmarks.packing_small import Kind, SmallInstance, kind_of
from mpslice.gpus import MIB
from planner.model.nodes import NodeState

_WORKERS: Final = 2


def proved_by_cp_sat(instance: SmallInstance, seconds: float) -> tuple[int, ...] | None:
    """The best gb by priority class, as `gb_by_priority`; None if a class takes too long."""
    demand = Counter(kind_of(pod) for pod in instance.pods)
    model = cp_model.CpModel()
    total: dict[Kind, list[cp_model.IntVar]] = {kind: [] for kind in demand}
    for state in instance.snapshot.nodes:
        for kind, count in _add_node(model, state, demand).items():
            total[kind].append(count)
    for kind, counts in total.items():
        model.add(sum(counts) <= demand[kind])
    best: list[int] = []
    for priority in sorted({kind.priority for kind in demand}, reverse=True):
        placed = [
            kind.gb * count
            for kind, counts in total.items()
            if kind.priority == priority
            for count in counts
        ]
        goal = cp_model.LinearExpr.sum(placed)
        model.maximize(goal)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = _WORKERS
        solver.parameters.max_time_in_seconds = seconds
        if solver.solve(model) != cp_model.OPTIMAL:
            return None
        best.append(round(solver.objective_value))
        model.add(goal == best[-1])
        _hint(model, solver, total)
    return tuple(best)


def _add_node(
    model: cp_model.CpModel, state: NodeState, demand: Mapping[Kind, int]
) -> dict[Kind, cp_model.IntVar]:
    """How many of each kind of pod go to the node, so that GPUs, CPU and memory suffice."""
    labels = state.node.labels
    counts = {
        kind: model.new_int_var(0, demand[kind], "")
        for kind in demand
        if all(labels.get(key) == value for key, value in kind.selector)
    }
    model.add(sum(kind.cpu_milli * count for kind, count in counts.items()) <= state.idle.cpu_milli)
    memory = sum(kind.memory_mib * count for kind, count in counts.items())
    model.add(memory <= state.idle.memory // MIB)
    sizes = sorted({kind.gb for kind in counts})
    on: dict[int, list[cp_model.IntVar]] = {size: [] for size in sizes}
    before: tuple[object, cp_model.LinearExprT] | None = None
    for gpu in sorted(state.gpus, key=lambda gpu: sorted(gpu.used.items())):
        room = gpu.capacity - sum(size * n for size, n in gpu.used.items())
        slices = {size: model.new_int_var(0, room // size, "") for size in sizes if size <= room}
        filled = sum(size * count for size, count in slices.items())
        model.add(filled <= room)
        for size, count in slices.items():
            on[size].append(count)
        alike = (room, gpu.capacity)
        if before is not None and before[0] == alike:
            model.add(before[1] >= filled)  # which of two like GPUs is fuller says nothing
        before = alike, filled
    for size in sizes:
        model.add(sum(on[size]) == sum(c for kind, c in counts.items() if kind.gb == size))
    return counts


def _hint(
    model: cp_model.CpModel,
    solver: cp_model.CpSolver,
    total: Mapping[Kind, Sequence[cp_model.IntVar]],
) -> None:
    """The next class starts from where this one ended."""
    model.clear_hints()
    for counts in total.values():
        for count in counts:
            model.add_hint(count, solver.value(count))
