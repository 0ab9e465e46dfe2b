"""How much GPU memory could be placed at most: an LP relaxation, solved by HiGHS.

An arc-flow model of each kind of node: GPUs are units of flow from their free room down to
nothing, a slice of s gb is an arc of length s, and CPU and memory are pooled over the kind. Every
real placement is a solution of it, so its optimum bounds them all.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import highspy
import numpy as np

from planner.model import NodeState, Pod, Snapshot

Ask = tuple[int, int, int]
"""gb, thousandths of a core, bytes of memory."""


class _QuietHighs(highspy.Highs):
    """HiGHS without callbacks: making those writes a banner to stdout."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()


@dataclass(slots=True)
class _Program:
    """A linear program put together column by column; every column is at least 0."""

    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    rows: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    row_upper: list[float] = field(default_factory=list)

    def row(self, lower: float, upper: float) -> int:
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        return len(self.row_lower) - 1

    def column(self, cost: float, upper: float, entries: Iterable[tuple[int, float]]) -> None:
        self.cost.append(cost)
        self.upper.append(upper)
        for row, value in entries:
            self.rows.append(row)
            self.values.append(value)
        self.starts.append(len(self.rows))

    def maximum(self) -> float:
        """The optimum; raises RuntimeError when there is none."""
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), len(self.row_lower)
        lp.col_cost_ = np.array(self.cost)
        lp.col_lower_ = np.zeros(len(self.cost))
        lp.col_upper_ = np.array(self.upper)
        lp.row_lower_, lp.row_upper_ = np.array(self.row_lower), np.array(self.row_upper)
        lp.a_matrix_.start_ = np.array(self.starts)
        lp.a_matrix_.index_ = np.array(self.rows)
        lp.a_matrix_.value_ = np.array(self.values)
        lp.sense_ = highspy.ObjSense.kMaximize
        solver = _QuietHighs()
        solver.setOptionValue("output_flag", False)
        solver.passModel(lp)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"the bound's LP ended as {solver.getModelStatus()}")
        return float(solver.getInfo().objective_function_value)


def lp_bound(snapshot: Snapshot, pods: Sequence[Pod]) -> float:
    """At most so many gb of the pods' slices can be placed. For pods of one slice each."""
    demand = Counter(_ask(pod) for pod in pods)
    kinds: dict[object, list[NodeState]] = {}
    for state in snapshot.nodes:
        key = tuple(sorted(gpu.capacity for gpu in state.gpus)), state.node.allocatable
        kinds.setdefault(key, []).append(state)
    program = _Program()
    wanted = {ask: program.row(0, count) for ask, count in demand.items()}
    for states in kinds.values():
        _add_kind(program, states, demand, wanted)
    return program.maximum()


def _ask(pod: Pod) -> Ask:
    (size,) = pod.seats
    return size, pod.requests.cpu_milli, pod.requests.memory


def _add_kind(
    program: _Program, states: Sequence[NodeState], demand: Counter[Ask], wanted: dict[Ask, int]
) -> None:
    """Nodes of one kind: what fits one of them may be placed, as far as all have room for it."""
    rooms = Counter(
        gpu.capacity - sum(size * n for size, n in gpu.used.items())
        for state in states
        for gpu in state.gpus
    )
    top = max(rooms, default=0)
    cpu = program.row(0, sum(max(0, state.idle.cpu_milli) for state in states) / 1000)
    memory = program.row(0, sum(max(0, state.idle.memory) for state in states) / 2**30)
    level = [program.row(-rooms[room], -rooms[room]) for room in range(1, top + 1)]

    def flow(room: int) -> list[tuple[int, float]]:  # nothing is left at room 0, the sink
        return [(level[room - 1], 1.0)] if room > 0 else []

    def out(room: int) -> list[tuple[int, float]]:
        return [(row, -1.0) for row, _ in flow(room)]

    for room in range(1, top + 1):
        program.column(0, highspy.kHighsInf, [*out(room), *flow(room - 1)])
    placed: dict[int, int] = {}
    most_cpu = max(state.idle.cpu_milli for state in states)
    most_memory = max(state.idle.memory for state in states)
    for ask, count in demand.items():
        size, milli, octets = ask
        if size > top or milli > most_cpu or octets > most_memory:
            continue
        if size not in placed:
            placed[size] = program.row(0, 0)
            for room in range(size, top + 1):
                entries = [*out(room), *flow(room - size), (placed[size], 1.0)]
                program.column(0, highspy.kHighsInf, entries)
        program.column(
            size,
            count,
            [
                (wanted[ask], 1.0),
                (placed[size], -1.0),
                (cpu, milli / 1000),
                (memory, octets / 2**30),
            ],
        )
