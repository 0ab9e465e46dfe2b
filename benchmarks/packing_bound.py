"""How much GPU memory could be placed at most, bounded by an LP.

An arc-flow model of each kind of node: GPUs are units of flow from their free room down to
nothing, a slice of s gb is an arc of length s, and CPU and memory are pooled over the kind. Every
real placement is a solution of it, so its optimum bounds them all.
"""

from collections import Counter
from collections.abc import Sequence

import highspy

from benchmarks.packing_highs import Program
from planner.model.nodes import NodeState
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot

Ask = tuple[int, int, int]
"""gb, thousandths of a core, bytes of memory."""


def lp_bound(snapshot: Snapshot, pods: Sequence[Pod]) -> float:
    """At most so many gb of the pods' slices can be placed. For pods of one slice each."""
    demand = Counter(_ask(pod) for pod in pods)
    kinds: dict[object, list[NodeState]] = {}
    for state in snapshot.nodes:
        key = tuple(sorted(gpu.capacity for gpu in state.gpus)), state.node.allocatable
        kinds.setdefault(key, []).append(state)
    program = Program()
    wanted = {ask: program.row(0, count) for ask, count in demand.items()}
    for states in kinds.values():
        _add_kind(program, states, demand, wanted)
    return program.maximum()


def _ask(pod: Pod) -> Ask:
    (size,) = pod.seats
    return size, pod.requests.cpu_milli, pod.requests.memory


def _add_kind(
    program: Program, states: Sequence[NodeState], demand: Counter[Ask], wanted: dict[Ask, int]
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
