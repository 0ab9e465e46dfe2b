"""The optimum of the objective's first part, proved by HiGHS: gb per priority class, in order.

An integer program over each node's GPUs as flow: from a GPU's free room, sizes one after the
other from the largest down, so many slices of each, and what they take of CPU and memory. The
LP below it is tight, which is why HiGHS is done in seconds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import highspy

from benchmarks.packing_highs import Program
from benchmarks.packing_small import Kind, SmallInstance, kind_of
from mpslice.gpus import MIB
from planner.model.nodes import NodeState


def proved(instance: SmallInstance, seconds: float) -> tuple[int, ...]:
    """The best gb by class, as `gb_by_priority`; TimeoutError when a class takes too long."""
    demand = Counter(kind_of(pod) for pod in instance.pods)
    program = Program()
    at_most = {kind: program.row(0, count) for kind, count in demand.items()}
    classes = sorted({kind.priority for kind in demand}, reverse=True)
    goals = {priority: program.row(0, highspy.kHighsInf) for priority in classes}
    placed: dict[int, list[tuple[int, int]]] = {priority: [] for priority in classes}
    for state in instance.snapshot.nodes:
        for kind, entries in _add_node(program, state, demand).items():
            placed[kind.priority].append((len(program.cost), kind.gb))
            shared = [(at_most[kind], 1.0), (goals[kind.priority], float(kind.gb))]
            program.column(0, demand[kind], [*entries, *shared])
    best: list[int] = []
    for priority in classes:
        program.cost = [0.0] * len(program.cost)
        for column, gb in placed[priority]:
            program.cost[column] = gb
        best.append(round(program.maximum(integer=True, seconds=seconds)))
        program.row_lower[goals[priority]] = best[-1]
    return tuple(best)


def _add_node(
    program: Program, state: NodeState, demand: Mapping[Kind, int]
) -> dict[Kind, Sequence[tuple[int, float]]]:
    """The node's rows and flow; by kind of pod the entries that one of them has in these rows."""
    kinds = [
        kind
        for kind in demand
        if all(state.node.labels.get(key) == value for key, value in kind.selector)
    ]
    cpu = program.row(0, max(0, state.idle.cpu_milli) / 1000)
    memory = program.row(0, max(0, state.idle.memory // MIB) / 1024)
    standing = {size: program.row(0, 0) for size in {kind.gb for kind in kinds}}
    wanted = Counter[int]()
    for kind in kinds:
        wanted[kind.gb] += demand[kind]
    _add_flow(program, state, standing, wanted)
    return {
        kind: (
            (standing[kind.gb], -1.0),
            (cpu, kind.cpu_milli / 1000),
            (memory, kind.memory_mib / 1024),
        )
        for kind in kinds
    }


def _add_flow(
    program: Program, state: NodeState, standing: Mapping[int, int], wanted: Mapping[int, int]
) -> None:
    """GPUs flow from their room through a choice for each size; every choice is a column."""
    rooms = Counter(_room(gpu.capacity, gpu.used.items()) for gpu in state.gpus)
    here = {room: program.row(-count, -count) for room, count in rooms.items()}
    sizes = sorted(wanted, reverse=True)
    for place, size in enumerate(sizes):
        smallest_left = min(sizes[place + 1 :], default=None)
        after: dict[int, int] = {}
        for room, row in sorted(here.items(), reverse=True):
            for count in range(min(room // size, wanted[size]) + 1):
                entries = [(row, -1.0)]
                left = room - count * size
                if smallest_left is not None and left >= smallest_left:
                    if left not in after:
                        after[left] = program.row(0, 0)
                    entries.append((after[left], 1.0))
                if count:
                    entries.append((standing[size], float(count)))
                program.column(0, len(state.gpus), entries)
        here = after


def _room(capacity: int, used: Iterable[tuple[int, int]]) -> int:
    return capacity - sum(size * count for size, count in used)
