"""Reservations: the unit that waits longest is promised the GPUs where it will fit soonest.

What comes free there goes to nobody younger, so a large pod is not passed by small ones for ever.
Which GPUs these are is found anew in each plan and needs no memory: those that lack least.
"""

from typing import Final

from planner.model import Cause, Reservation
from planner.packing.books import GpuBook, NodeBook
from planner.packing.draft import Draft
from planner.packing.ledger import Ledger, Seating
from planner.packing.shapes import Shape

_Choice = tuple[NodeBook, tuple[GpuBook, ...]]

_NOT_OF_GPUS: Final = frozenset(
    {Cause.NODE_AFFINITY, Cause.HOST_PORT, Cause.POD_AFFINITY, Cause.TOPOLOGY_SPREAD}
)
"""Causes that a node refuses a pod for, whatever comes free of its GPUs, CPU and memory."""


def reserve(draft: Draft, number: int) -> list[Reservation]:
    """Closes the GPUs that the unit waits for, for the rest of the pass; [] where none could ever
    hold it."""
    ledger, unit = draft.ledger, draft.units[number]
    if len(unit.pods) < unit.needed:
        return []
    seated: list[Seating] = []
    chosen: list[_Choice] = []
    found: list[Reservation] = []
    for pod in unit.pods[: unit.needed]:
        shape = ledger.shape(pod)
        choice = _at_once(shape)
        if choice is not None:
            seated.append(ledger.seat(pod, shape, *choice))
        else:
            taken = {gpu.order for _, gpus in chosen for gpu in gpus}
            choice = _soonest(shape, taken)
        if choice is None:
            break
        chosen.append(choice)
        found.append(Reservation(pod, choice[0].name, tuple(gpu.uuid for gpu in choice[1])))
    for seating in seated:
        ledger.unseat(seating)
    if len(found) < unit.needed:
        return []
    _close(ledger, chosen)
    return found


def _close(ledger: Ledger, chosen: list[_Choice]) -> None:
    for gpu in {gpu.order: gpu for _, gpus in chosen for gpu in gpus}.values():
        if not gpu.closed:
            ledger.close(gpu)


def _at_once(shape: Shape) -> _Choice | None:
    """Where the shape fits most tightly now. Free slices count as room: where they stand is chance,
    and to follow them would reserve other GPUs each time."""
    best: tuple[int, int] | None = None
    choice: _Choice | None = None
    for node in shape.pool.nodes:
        gpus = _tightest(shape, node) if shape.fits(node) else None
        if gpus is not None:
            rest = sum(gpu.room for gpu in dict.fromkeys(gpus))
            if best is None or (rest, node.order) < best:
                best, choice = (rest, node.order), (node, gpus)
    return choice


def _tightest(shape: Shape, node: NodeBook) -> tuple[GpuBook, ...] | None:
    """By seat, the GPUs with the least room that suffices; None where they do not all fit."""
    left = {gpu: [gpu.room, gpu.limit - gpu.count] for gpu in node.gpus if not gpu.closed}
    chosen: dict[int, GpuBook] = {}
    for seat in shape.seating_order:
        size = shape.seats[seat]
        able = [gpu for gpu, (gb, slots) in left.items() if gb >= size and slots > 0]
        if not able:
            return None
        gpu = min(able, key=lambda gpu: (left[gpu][0], gpu.index))
        left[gpu][0] -= size
        left[gpu][1] -= 1
        chosen[seat] = gpu
    return tuple(chosen[seat] for seat in range(len(shape.seats)))


def _soonest(shape: Shape, taken: set[int]) -> _Choice | None:
    """The node and GPUs that lack least of what the shape needs, of those that could ever hold
    it."""
    best: tuple[float, int] | None = None
    choice: _Choice | None = None
    for node in shape.pool.nodes:
        gpus = _least_lacking(shape, node, taken) if _could_hold(shape, node) else None
        if gpus is None:
            continue
        lacks = max(_lacking_gb(shape, gpus), _lacking_cpu(shape, node))
        if best is None or (lacks, node.order) < best:
            best, choice = (lacks, node.order), (node, gpus)
    return choice


def _could_hold(shape: Shape, node: NodeBook) -> bool:
    """Whether it has what the shape needs once all others are gone; who waits for anything else, a
    port or a neighbour, does not wait for GPUs."""
    has, wants = node.state.node.allocatable, shape.pod.requests
    extended = dict(has.extended)
    return (
        has.cpu_milli >= shape.cpu
        and has.memory >= shape.memory
        and has.ephemeral >= wants.ephemeral
        and all(extended.get(name, 0) >= amount for name, amount in wants.extended)
        and shape.refused_by(node) not in _NOT_OF_GPUS
    )


def _least_lacking(shape: Shape, node: NodeBook, taken: set[int]) -> tuple[GpuBook, ...] | None:
    """By seat, GPUs that are large enough; several slices may share one that has the memory."""
    left = {g.order: g.room for g in node.gpus if not g.closed and g.order not in taken}
    by_order = {gpu.order: gpu for gpu in node.gpus}
    chosen: dict[int, GpuBook] = {}
    promised: dict[int, int] = {}
    seats: dict[int, int] = {}
    for seat in shape.seating_order:
        size = shape.seats[seat]
        able = [
            order
            for order in left
            if promised.get(order, 0) + size <= by_order[order].capacity
            and seats.get(order, 0) < by_order[order].limit
        ]
        if not able:
            return None
        best = min(able, key=lambda order: (max(0, size - left[order]), left[order], order))
        left[best] -= size
        promised[best] = promised.get(best, 0) + size
        seats[best] = seats.get(best, 0) + 1
        chosen[seat] = by_order[best]
    return tuple(chosen[seat] for seat in range(len(shape.seats)))


def _lacking_gb(shape: Shape, gpus: tuple[GpuBook, ...]) -> float:
    wanted: dict[int, int] = {}
    for size, gpu in zip(shape.seats, gpus, strict=True):
        wanted[gpu.order] = wanted.get(gpu.order, 0) + size
    lacks = {gpu.order: max(0, wanted[gpu.order] - gpu.room) for gpu in gpus}
    return sum(lacks.values()) / shape.gb


def _lacking_cpu(shape: Shape, node: NodeBook) -> float:
    return max(0, shape.cpu - node.cpu) / shape.cpu if shape.cpu > 0 else 0.0
