"""Where pods should go, from one program over all nodes instead of one node after the other.

GPUs are flow: a GPU with so many free gb is a unit that enters there and decides, size by size from
the largest down, how many slices of it to hold (an arc-flow model of cutting stock, after Valério
de Carvalho, 1999), so the program's size does not depend on the number of GPUs and pods. CPU and
memory are rows of each section of nodes; where each section is one node, the program is exact.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heapify, heappop, heapreplace
from math import inf, log2
from time import perf_counter
from typing import Final

from planner.packing.books import GpuBook, NodeBook
from planner.packing.ledger import AnyCandidates
from planner.packing.solver.program import Program, TimeLimitReached
from planner.packing.state import State


@dataclass(frozen=True, slots=True)
class _Limits:
    """How large a program may be, how far it is searched, and the gap that is good enough."""

    columns: int
    tree_nodes: int
    gap: float


_EXACT: Final = _Limits(columns=40_000, tree_nodes=100, gap=1e-6)
"""Every node has a section of its own."""

_SHARED: Final = _Limits(columns=6_000, tree_nodes=5, gap=4e-4)
"""Nodes that are much alike share one; what is found is rounded to nodes anyway. With many sorts
of nodes a program takes long and says nothing that filling nodes anew does not find."""

_KINDS: Final = 16
"""Of one size in shared sections: pods that need about as much CPU count as equal."""

_Seat = tuple[float, int, GpuBook]
"""CPU left on the node, negated; the GPU's number, and the GPU."""

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class _Kind:
    """Movable pods of one rank and size, taken as alike; CPU in thousandths, memory in GiB."""

    rank: int
    size: int
    candidates: AnyCandidates
    cpu: float
    memory: float
    numbers: tuple[int, ...]


@dataclass(slots=True)
class _Arcs:
    """The columns for one size: (free gb before, slices of the size) -> column."""

    size: int
    columns: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(slots=True)
class _Section:
    """Nodes whose CPU and memory count together, and the program's columns that are theirs."""

    nodes: Sequence[NodeBook]
    kinds: Sequence[_Kind]
    takes: list[int] = field(default_factory=list)  # by kind
    arcs: list[_Arcs] = field(default_factory=list)  # by size, the largest first

    @property
    def gpus(self) -> list[GpuBook]:
        return [gpu for node in self.nodes for gpu in node.gpus if gpu.reclaimable > 0]


class Advice(Enum):
    """What became of asking the solver."""

    EXACT = auto()
    ROUNDED = auto()
    NONE = auto()
    """The program would be too large, or has no solution, as averages may not add up."""
    TOO_LATE = auto()


def guide(state: State, numbers: Sequence[int], floors: Sequence[int], deadline: float) -> Advice:
    """Places movable units as a program says that gives the last rank the most GB.

    None of `numbers` is placed before. The ranks before it get at least the GB in `floors`. Nothing
    is placed when there is no advice, or it was not solved by the `deadline`, a time of
    `perf_counter`.
    """
    limits, advice = _EXACT, Advice.EXACT
    sections = _sections(state, _kinds(state, numbers), shared=False)
    if _columns(sections) > limits.columns:
        limits, advice = _SHARED, Advice.ROUNDED
        sections = _sections(state, _merged(state, _kinds(state, numbers)), shared=True)
        if _columns(sections) > limits.columns:
            return Advice.NONE
    program = Program()
    _build(program, sections, floors, exact=advice is Advice.EXACT)
    seconds = deadline - perf_counter()
    try:
        solution = program.solve(nodes=limits.tree_nodes, gap=limits.gap, seconds=seconds)
    except TimeLimitReached:
        return Advice.TOO_LATE
    if solution is None:
        return Advice.NONE
    taken: set[int] = set()
    for section in sections:
        _follow(state, section, solution, taken)
    return advice


def _kinds(state: State, numbers: Sequence[int]) -> list[_Kind]:
    """Exactly alike: of one rank and class."""
    alike: dict[tuple[int, object], list[int]] = {}
    for number in numbers:
        pods = state.class_of(state.units[number].pods[0])
        alike.setdefault((state.rank[number], pods), []).append(number)
    return [_kind(state, tuple(members)) for members in alike.values()]


def _kind(state: State, numbers: tuple[int, ...]) -> _Kind:
    pods = [state.units[number].pods[0] for number in numbers]
    first = state.class_of(pods[0])
    return _Kind(
        state.rank[numbers[0]],
        first.largest,
        state.candidates(first),
        sum(pod.requests.cpu_milli for pod in pods) / len(pods),
        sum(pod.requests.memory for pod in pods) / len(pods) / _GIB,
        numbers,
    )


def _merged(state: State, kinds: Sequence[_Kind]) -> list[_Kind]:
    """Fewer kinds: those of one rank, size and pool in portions by CPU."""
    alike: dict[tuple[int, int, AnyCandidates], list[_Kind]] = defaultdict(list)
    for kind in kinds:
        alike[kind.rank, kind.size, kind.candidates].append(kind)
    merged: list[_Kind] = []
    for same in alike.values():
        same.sort(key=lambda kind: (kind.cpu, kind.numbers))
        numbers = [number for kind in same for number in kind.numbers]
        step = len(numbers) if len(same) == 1 else -(-len(numbers) // _KINDS)
        starts = range(0, len(numbers), step)
        merged += [_kind(state, tuple(numbers[at : at + step])) for at in starts]
    return merged


def _sections(state: State, kinds: Sequence[_Kind], *, shared: bool) -> list[_Section]:
    """The nodes that the kinds may use; where `shared`, by who may use them and CPU for each gb."""
    candidates = list({kind.candidates: None for kind in kinds})
    groups: dict[object, list[NodeBook]] = {}
    for node in state.nodes:
        mine = tuple(number for number, each in enumerate(candidates) if node.order in each.orders)
        if not mine or node.room <= 0:
            continue
        band = round(2 * log2(max(node.cpu, 1) / node.room)) if shared else node.order
        groups.setdefault((mine, band), []).append(node)
    return [
        _Section(nodes, [kind for kind in kinds if nodes[0].order in kind.candidates.orders])
        for nodes in groups.values()
    ]


def _columns(sections: Sequence[_Section]) -> int:
    """About how many columns the program will have."""
    return sum(
        2
        * max((gpu.reclaimable for gpu in section.gpus), default=0)
        * len({kind.size for kind in section.kinds})
        + len(section.kinds)
        for section in sections
    )


def _build(
    program: Program, sections: Sequence[_Section], least: Sequence[int], *, exact: bool
) -> None:
    demand: dict[_Kind, int] = {}
    rank = len(least)
    floors = [program.row(gb, inf) for gb in least]
    for section in sections:
        rooms = Counter(gpu.reclaimable for gpu in section.gpus)
        cpu = program.row(0, sum(max(node.cpu, 0) for node in section.nodes) / 1000)
        memory = program.row(0, sum(max(node.memory, 0) for node in section.nodes) / _GIB)
        sizes: dict[int, int] = {}
        for kind in section.kinds:
            if kind.size not in sizes:
                sizes[kind.size] = program.row(0, 0)
            if kind not in demand:
                demand[kind] = program.row(0, len(kind.numbers))
            entries = [
                (demand[kind], 1.0),
                (sizes[kind.size], -1.0),
                (cpu, kind.cpu / 1000),
                (memory, kind.memory),
            ]
            if kind.rank < rank:
                entries.append((floors[kind.rank], float(kind.size)))
            gain = float(kind.size) if kind.rank == rank else 0.0
            section.takes.append(program.column(gain, inf, entries, whole=exact))
        _add_flow(program, section, rooms, sizes)


def _add_flow(
    program: Program, section: _Section, rooms: Counter[int], sizes: dict[int, int]
) -> None:
    """What flows into a state (free gb, before a size is decided on) flows out of it again."""
    here = {room: program.row(-count, -count) for room, count in rooms.items()}
    ordered = sorted(sizes, reverse=True)
    for place, size in enumerate(ordered):
        least = ordered[-1] if place + 1 < len(ordered) else inf  # below it nothing more fits
        arcs = _Arcs(size)
        section.arcs.append(arcs)
        after: dict[int, int] = {}
        for room, row in here.items():
            for count in range(room // size + 1):
                left = room - count * size
                entries = [(row, -1.0), (sizes[size], float(count))]
                if left >= least:
                    if left not in after:
                        after[left] = program.row(0, 0)
                    entries.append((after[left], 1.0))
                arcs.columns[room, count] = program.column(0.0, inf, entries, whole=True)
        here = after


def _follow(state: State, section: _Section, solution: Sequence[float], taken: set[int]) -> None:
    """Gives each GPU the sizes along a path of the flow, and pods of the kinds that were taken."""
    chosen: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by size: (cpu, number)
    for kind, column in zip(section.kinds, section.takes, strict=True):
        free = (number for number in kind.numbers if number not in taken)
        for number, _ in zip(free, range(round(solution[column])), strict=False):
            taken.add(number)
            chosen[kind.size].append((state.units[number].pods[0].requests.cpu_milli, number))
    mean = {size: sum(cpu for cpu, _ in pods) / len(pods) for size, pods in chosen.items()}
    seats: dict[int, list[_Seat]] = defaultdict(list)
    for gpu, sizes in _deal(section, solution, mean):
        for size in sizes:
            seats[size].append((-gpu.node.cpu, gpu.order, gpu))
    for heap in seats.values():
        heapify(heap)
    hungriest = ((-cpu, number, size) for size, pods in chosen.items() for cpu, number in pods)
    for _, number, size in sorted(hungriest):
        if seats[size]:
            _seat(state, number, _pop_richest(seats[size], lambda gpu: gpu.node.cpu))


def _deal(
    section: _Section, solution: Sequence[float], mean: Mapping[int, float]
) -> Iterator[tuple[GpuBook, Sequence[int]]]:
    """Deals the paths of the flow to GPUs with that much room, so that all nodes need as much CPU
    of what they have; `mean` is the CPU of a pod by its size."""
    flows = [
        (arcs.size, {key: round(solution[column]) for key, column in arcs.columns.items()})
        for arcs in section.arcs
    ]
    gpus: dict[int, list[_Seat]] = defaultdict(list)
    paths: list[tuple[float, int, list[int]]] = []
    for gpu in section.gpus:
        sizes = _path(flows, gpu.reclaimable)
        paths.append((sum(mean.get(size, 0.0) for size in sizes), gpu.reclaimable, sizes))
        gpus[gpu.reclaimable].append((-gpu.node.cpu, gpu.order, gpu))
    for heap in gpus.values():
        heapify(heap)
    left = {node.order: float(node.cpu) for node in section.nodes}
    for cpu, room, sizes in sorted(paths, reverse=True):
        gpu = _pop_richest(gpus[room], lambda gpu: left[gpu.node.order])
        left[gpu.node.order] -= cpu
        yield gpu, sizes


def _pop_richest(heap: list[_Seat], cpu_left: Callable[[GpuBook], float]) -> GpuBook:
    """The GPU whose node has most CPU left; what the heap has of that may be out of date."""
    while True:
        cpu, order, gpu = heap[0]
        now = cpu_left(gpu)
        if -cpu <= now:
            heappop(heap)
            return gpu
        heapreplace(heap, (-now, order, gpu))


def _path(flows: Sequence[tuple[int, dict[tuple[int, int], int]]], room: int) -> list[int]:
    """The sizes that one unit of flow decides for; the unit is taken out of `flows`."""
    sizes: list[int] = []
    for size, flow in flows:
        count = next((n for n in range(room // size, -1, -1) if flow.get((room, n), 0) > 0), 0)
        if (room, count) in flow:
            flow[room, count] -= 1
        sizes += [size] * count
        room -= size * count
    return sizes


def _seat(state: State, number: int, gpu: GpuBook) -> None:
    pod = state.units[number].pods[0]
    pods = state.class_of(pod)
    if gpu.reclaimable >= pods.largest and pods.fits(gpu.node):
        state.put(number, (state.book(pod, pods, gpu.node, (gpu,)),))
