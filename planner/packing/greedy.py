"""Greedy best fit: a pod onto the node and GPUs where it fits best, a unit whole or not at all."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from mpslice.slices import SliceSize
from planner.model import Pod
from planner.packing.books import GpuBook, NodeBook
from planner.packing.ledger import Ledger, Seating
from planner.packing.order import Unit
from planner.packing.pools import tightest
from planner.packing.shapes import Shape

_LOOK: Final = 4  # how many GPUs are compared
_STRANDED_WEIGHT: Final = 4
_TRIES: Final = 50  # GPUs that a pod of several slices tries on a node

Choose = Callable[[Iterator[GpuBook], Shape], GpuBook | None]
"""Picks a GPU whose node fits the shape, out of GPUs with room for its largest slice."""


def seat_group(ledger: Ledger, unit: Unit, choose: Choose = tightest) -> list[Seating]:
    """Seats as many of the unit's pods as fit, at least `needed`; else none, and [] is returned."""
    if len(unit.pods) < unit.needed:
        return []
    seated = _seat_enough(ledger, unit.pods, unit.needed, choose)
    if not seated and unit.needed > 1:
        # Where all are needed the large ones, which fit in fewer places, go first; else the small.
        large_first = unit.needed == len(unit.pods)
        by_size = sorted(unit.pods, key=lambda pod: sum(pod.seats), reverse=large_first)
        if by_size != list(unit.pods):
            seated = _seat_enough(ledger, by_size, unit.needed, choose)
    return seated


def _seat_enough(ledger: Ledger, pods: Sequence[Pod], needed: int, choose: Choose) -> list[Seating]:
    seated: list[Seating] = []
    left = len(pods)
    for pod in pods:
        left -= 1
        seating = seat_pod(ledger, pod, choose)
        if seating is not None:
            seated.append(seating)
        elif len(seated) + left < needed:
            break
    if len(seated) < needed:
        for seating in seated:
            ledger.unseat(seating)
        return []
    return seated


def seat_pod(ledger: Ledger, pod: Pod, choose: Choose = tightest) -> Seating | None:
    """Seats one pod: a standing free slice before a carve, a carve before a withdrawal."""
    shape = ledger.shape(pod)
    if shape.failed_at == ledger.epoch:
        return None
    if shape.single and choose is tightest and not ledger.standing:
        gpu = shape.pool.tightest(shape)  # the same as below, in a fraction of the time
        if gpu is not None:
            return ledger.seat(pod, shape, gpu.node, (gpu,))
    else:
        for source in _sources(ledger, shape):
            seating = _seat_from(ledger, pod, shape, source, choose)
            if seating is not None:
                return seating
    if shape.lasting:
        shape.failed_at = ledger.epoch
    return None


def seat_standing(ledger: Ledger, pod: Pod) -> Seating | None:
    """Seats one pod on slices that all stand already."""
    shape = ledger.shape(pod)
    return _seat_from(ledger, pod, shape, shape.pool.with_free, tightest, carve=False)


def fits_beside(ledger: Ledger, pod: Pod, nodes: Collection[NodeBook]) -> bool:
    """Whether a pod with one slice would fit on a node that is none of these."""
    shape = ledger.shape(pod)
    if shape.failed_at == ledger.epoch:
        return False
    on_these = False
    for source in _sources(ledger, shape):
        for gpu in source(shape):
            if shape.fits(gpu.node):
                if gpu.node not in nodes:
                    return True
                on_these = True
    if shape.lasting and not on_these:
        shape.failed_at = ledger.epoch
    return False


Source = Callable[[Shape], Iterator[GpuBook]]


def _sources(ledger: Ledger, shape: Shape) -> tuple[Source, ...]:
    pool = shape.pool
    if ledger.standing:
        return pool.with_free, pool.with_uncarved, pool.with_reclaimable
    return (pool.with_uncarved,)


def _seat_from(
    ledger: Ledger, pod: Pod, shape: Shape, source: Source, choose: Choose, *, carve: bool = True
) -> Seating | None:
    if shape.single:
        gpu = choose(source(shape), shape)
        return None if gpu is None else ledger.seat(pod, shape, gpu.node, (gpu,))
    tried: set[int] = set()
    while True:
        untried = (gpu for gpu in source(shape) if gpu.node.order not in tried)
        gpu = choose(untried, shape)
        if gpu is None:
            return None
        gpus = gpus_on(gpu.node, shape, carve=carve)
        if gpus is not None:
            return ledger.seat(pod, shape, gpu.node, gpus)
        tried.add(gpu.node.order)


def gpus_on(node: NodeBook, shape: Shape, *, carve: bool) -> tuple[GpuBook, ...] | None:
    """A GPU of the node for every seat, the largest slice first; None when they do not all fit.

    Without `carve` only slices that stand count. Each takes the GPU that suits it best; another
    only where those after it would have no place.
    """
    if sum(gpu.reclaimable for gpu in node.gpus) < shape.gb:
        return None
    sizes = [shape.seats[seat] for seat in shape.seating_order]
    found = _Seats(node, carve=carve).of(sizes)
    if not found:
        return None
    chosen = dict(zip(shape.seating_order, found, strict=True))
    return tuple(chosen[seat] for seat in range(len(shape.seats)))


class _Seats:
    """A search for the GPUs of one pod's slices on one node."""

    def __init__(self, node: NodeBook, *, carve: bool) -> None:
        self._node = node
        self._carve = carve
        self._tries = _TRIES

    def of(self, sizes: Sequence[SliceSize]) -> list[GpuBook]:
        """A GPU for each, in their order; [] when all were tried in vain, or `_TRIES` of them."""
        claimed: list[GpuBook] = []
        left = [iter(self._able(sizes[0]))]  # by slice, the GPUs that it has not tried
        while left and len(claimed) < len(sizes):
            gpu = next(left[-1], None)
            if gpu is not None:
                self._tries -= 1
                gpu.claim(sizes[len(claimed)])
                claimed.append(gpu)
                if len(claimed) < len(sizes):
                    left.append(iter(self._able(sizes[len(claimed)])))
                continue
            left.pop()
            if self._tries <= 0 or not claimed:
                break
            self._unclaim_last(claimed, sizes)
        found = list(claimed) if len(claimed) == len(sizes) else []
        while claimed:
            self._unclaim_last(claimed, sizes)
        return found

    @staticmethod
    def _unclaim_last(claimed: list[GpuBook], sizes: Sequence[SliceSize]) -> None:
        gpu = claimed.pop()
        gpu.unclaim(sizes[len(claimed)])

    def _able(self, size: SliceSize) -> list[GpuBook]:
        """The GPUs with room for it, the one that suits it best first."""
        gpus = self._node.gpus
        able = [g for g in gpus if g.reclaimable >= size and (self._carve or size in g.free)]
        able.sort(key=lambda g: (size not in g.free, g.uncarved < size, g.uncarved, g.index))
        return able


def strand_aware(cpu_per_gb: float) -> Choose:
    """Best fit that avoids leaving GPU memory on nodes without the CPU to use it.

    `cpu_per_gb`: thousandths of a CPU that pending pods ask for with each gb.
    """

    def stranded(room: int, cpu: int) -> float:
        return max(0.0, room - cpu / cpu_per_gb)

    def choose(gpus: Iterator[GpuBook], shape: Shape) -> GpuBook | None:
        best: GpuBook | None = None
        lowest = 0.0
        found = 0
        asked = max(shape.cpu, 0)
        for gpu in gpus:
            node = gpu.node
            if not shape.fits(node):
                continue
            more = stranded(node.room - shape.gb, node.cpu - asked) - stranded(node.room, node.cpu)
            score = gpu.uncarved + _STRANDED_WEIGHT * more + (0 if node.carved else 0.5)
            if best is None or score < lowest:
                best, lowest = gpu, score
            found += 1
            if found == _LOOK:
                break
        return best

    return choose
