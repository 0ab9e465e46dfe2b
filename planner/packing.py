"""The plan itself: greedy best fit in FIFO-in-priority order over a ledger. Pure and total.

A standing free slice is used before anything is carved, room beside what stands before anything is
withdrawn, and of the GPUs that suffice the tightest is taken.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Final

from mpslice.slices import SliceSize
from planner.feasibility import node_refusal
from planner.ledger import GpuBook, Ledger, NodeBook, gpu_refusal
from planner.model import Cause, Placement, Plan, Pod, Refusal, Snapshot

_LOOK: Final = 8  # how many as tight as the first are looked at


def plan(snapshot: Snapshot, pending: Iterable[Pod]) -> Plan:
    """Where each pending pod goes, which layouts that takes, and why the rest cannot be placed.

    The same result for any order of nodes and pods. Nothing is written for nodes that stay as
    they are; used slices are never touched.
    """
    pods = sorted(pending, key=planned_order)
    ledger = Ledger(snapshot, pods)
    placements: list[Placement] = []
    refused: list[Pod] = []
    hopeless: set[object] = set()  # room only shrinks in a pass, so a like pod fails as well
    for pod in pods:
        kind = _shape(pod)
        placement = None if kind in hopeless else place(ledger, pod)
        if placement is None:
            hopeless.add(kind)
            refused.append(pod)
        else:
            placements.append(placement)
    return Plan(
        placements=tuple(placements),
        refusals=explain(ledger, refused),
        layouts={
            node.name: ledger.layout(node)
            for node in ledger.nodes
            if any(gpu.changed for gpu in node.gpus)
        },
        withdrawn=ledger.withdrawn,
    )


def planned_order(pod: Pod) -> tuple[int, str, str]:
    """Sort key: the higher priority first, then the older, then by name."""
    return -pod.priority, pod.created, pod.key


def _shape(pod: Pod) -> object:
    """What decides where a pod fits; pods of one shape share their fate and its reason."""
    return pod.seats, pod.requests, pod.constraints, pod.ports


def place(ledger: Ledger, pod: Pod) -> Placement | None:
    """Books the pod where it fits best, all of its slices on one node; None when nowhere."""
    mark = ledger.mark()
    for node in _candidate_nodes(ledger, pod):
        ledger.book_pod(node, pod)
        seated = _seat_all(ledger, node, pod)
        if seated is not None:
            return Placement(pod, node.name, tuple(gpu.uuid for gpu in seated))
        ledger.undo(mark)
    return None


def _candidate_nodes(ledger: Ledger, pod: Pod) -> Iterator[NodeBook]:
    """Nodes that may hold the pod, best first, judged by its largest slice.

    The next one is asked for only after the last was tried and taken back, so the indexes that the
    generators walk are then as they were.
    """
    kinds = ledger.kinds_for(pod.constraints)
    largest = max(pod.seats)
    tried: set[str] = set()

    def fitting(gpus: Iterable[GpuBook]) -> Iterator[GpuBook]:
        for gpu in gpus:
            if gpu.node.name not in tried and gpu.node.refuses(pod) is None:
                yield gpu

    def carvable(gpus: Iterable[GpuBook]) -> Iterator[GpuBook]:
        return (gpu for gpu in fitting(gpus) if ledger.can_carve(gpu, largest))

    sources: tuple[Callable[[], Iterator[GpuBook]], ...] = (
        lambda: fitting(ledger.with_free(largest, kinds)),
        lambda: carvable(ledger.with_uncarved(largest, kinds)),
        lambda: carvable(ledger.with_room(largest, kinds)),
    )
    for source in sources:
        while (gpu := _tightest(source())) is not None:
            tried.add(gpu.node.name)
            yield gpu.node


def _tightest(gpus: Iterator[GpuBook]) -> GpuBook | None:
    """The first, unless one that is as tight stands on a node that is written anyway."""
    first = next(gpus, None)
    if first is None or first.node.touched:
        return first
    alike = takewhile(lambda gpu: gpu.uncarved == first.uncarved, islice(gpus, _LOOK))
    return next((gpu for gpu in alike if gpu.node.touched), first)


def _seat_all(ledger: Ledger, node: NodeBook, pod: Pod) -> list[GpuBook] | None:
    """Gives every seat of the pod a slice on this node, the largest first; by seat, or None."""
    seated: dict[int, GpuBook] = {}
    for seat, size in sorted(enumerate(pod.seats), key=lambda item: (-item[1], item[0])):
        gpu = _best_gpu(ledger, node, size)
        if gpu is None:
            return None
        if gpu.free[size] > 0:
            ledger.claim_free(gpu, size)
        else:
            ledger.carve(gpu, size)
        seated[seat] = gpu
    return [seated[seat] for seat in range(len(pod.seats))]


def _best_gpu(ledger: Ledger, node: NodeBook, size: SliceSize) -> GpuBook | None:
    standing = [gpu for gpu in node.gpus if gpu.free_count and gpu.free[size] > 0]
    if standing:
        return min(standing, key=lambda gpu: (gpu.uncarved, gpu.index))
    able = [gpu for gpu in node.gpus if ledger.can_carve(gpu, size)]
    return min(
        able,
        key=lambda gpu: (len(ledger.victims(gpu, size)), gpu.uncarved, gpu.room, gpu.index),
        default=None,
    )


def explain(ledger: Ledger, pods: Iterable[Pod]) -> tuple[Refusal, ...]:
    """For each pod how many nodes fail for which cause, in the state that the plan leads to."""
    known: dict[object, tuple[tuple[tuple[Cause, int], ...], tuple[int, str, int] | None]] = {}
    refusals: list[Refusal] = []
    for pod in pods:
        shape = _shape(pod)
        if shape not in known:
            known[shape] = _count_causes(ledger, pod)
        causes, hole = known[shape]
        refusals.append(Refusal(pod, causes, hole))
    return tuple(refusals)


def _count_causes(
    ledger: Ledger, pod: Pod
) -> tuple[tuple[tuple[Cause, int], ...], tuple[int, str, int] | None]:
    counts: dict[Cause, int] = {}
    holes: list[tuple[int, str, int]] = []
    for node in ledger.nodes:
        cause = _cause(ledger, node, pod)
        counts[cause] = counts.get(cause, 0) + 1
        if cause is Cause.GPU_MEMORY:
            holes += [(gpu.room, node.name, gpu.index) for gpu in node.gpus]
    hole = min(holes, key=lambda h: (-h[0], h[1], h[2]), default=None)
    return tuple((cause, counts[cause]) for cause in Cause if cause in counts), hole


def _cause(ledger: Ledger, node: NodeBook, pod: Pod) -> Cause:
    if not node.gpus:
        return Cause.NOT_READY
    return (
        node_refusal(pod.constraints, node.state.node)
        or node.refuses(pod)
        or gpu_refusal(node, pod, ledger)
    )
