"""Best fit: a pod onto the node and GPUs that it fills best, a unit whole or not at all.

A free slice before a carve, a carve before a withdrawal; of withdrawals the one that costs least.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from mpslice.slices import SliceSize
from planner.model.pods import Pod
from planner.packing.books import GpuBook, NodeBook
from planner.packing.candidates import best
from planner.packing.classes import PodClass
from planner.packing.ledger import Seating
from planner.packing.state import State

_LOOK: Final = 4  # how many GPUs are compared
_LOOK_WITHDRAWING: Final = 16  # and where free slices would have to go
_STRANDED_WEIGHT: Final = 4
_TRIES: Final = 50  # GPUs that a pod of several slices tries on a node

Choose = Callable[[Iterator[GpuBook], PodClass], GpuBook | None]
"""Picks a GPU out of those that fit, the tightest first."""

_Source = Callable[[PodClass], Iterator[GpuBook]]


def tightest(gpus: Iterator[GpuBook], _pods: PodClass) -> GpuBook | None:
    """The tightest, as `best` has it."""
    return best(gpus)


def fill(state: State, numbers: Iterable[int], choose: Choose = tightest) -> list[int]:
    """Places units in the order given; those that do not fit are returned.

    Some fit only once others are there, which they want to be near or spread among.
    """
    left = [number for number in numbers if not place(state, number, choose)]
    if not state.relations.active:
        return left
    while True:
        placed = {n for n in left if _may_relent(state, n) and place(state, n, choose)}
        if not placed:
            return left
        left = [number for number in left if number not in placed]


def _may_relent(state: State, number: int) -> bool:
    """Whether placing others can make room for a unit that fits nowhere."""
    classes = (state.class_of(pod) for pod in state.units[number].pods)
    return any(pods.demands is not None and pods.demands.may_relent for pods in classes)


def place(state: State, number: int, choose: Choose = tightest) -> bool:
    """Places the unit where it fits best, unless it is placed; whether it is then."""
    if state.placed[number]:
        return True
    unit = state.units[number]
    is_group = unit.needed > 1 or number in state.further
    if (is_group or state.after) and not state.may_go(number):
        return False
    if is_group:
        members = state.members(number)
        # Where all are needed the large ones, which fit in fewer places, go first; else the small.
        large_first = unit.needed == len(members)
        by_size = sorted(members, key=lambda pod: sum(pod.seats), reverse=large_first)
        orders = (members, by_size) if by_size != members else (members,)

        def seat_one(pod: Pod) -> Seating | None:
            return seat(state, pod, choose)

        return any(place_group(state, number, order, seat_one) for order in orders)
    seating = seat(state, unit.pods[0], choose)
    if seating is None:
        return False
    state.put(number, (seating,))
    return True


_SeatOne = Callable[[Pod], Seating | None]
"""Books a pod; None where it does not fit."""


def place_group(state: State, number: int, members: Sequence[Pod], seat_one: _SeatOne) -> bool:
    """Places the first of a group's members that fit, as many as it needs; whether it could."""
    needed = state.units[number].needed
    mark = state.checkpoint()
    seated: list[Seating] = []
    left = len(members)
    for pod in members:
        left -= 1
        seating = seat_one(pod)
        if seating is not None:
            seated.append(seating)
        if len(seated) == needed:
            if len(members) > needed:
                state.divide(number, [seating.pod for seating in seated])
            state.put(number, tuple(seated))
            return True
        if len(seated) + left < needed:
            break
    for seating in seated:
        state.unbook(seating)
    state.rollback(mark)
    return False


def seat(state: State, pod: Pod, choose: Choose = tightest) -> Seating | None:
    """Books one pod where it fits best; None where it fits nowhere."""
    pods = state.class_of(pod)
    if pods.failed_at is not None and pods.failed_at == state.moment(pods):
        return None
    candidates = state.candidates(pods)
    if not candidates.orders:
        return None
    if pods.single and choose is tightest and not (state.standing or pods.spread):
        gpu = candidates.tightest(pods)  # the same as below, in a fraction of the time
        if gpu is not None:
            return state.book(pod, pods, gpu.node, (gpu,))
    elif pods.largest <= candidates.largest:
        for source, pick in _sources(state, pods, choose):
            seating = _seat_from(state, pod, pods, source, pick)
            if seating is not None:
                return seating
    pods.failed_at = state.moment(pods)
    return None


def seat_on_free(state: State, pod: Pod) -> Seating | None:
    """Books one pod on free slices that all stand; of like ones on the node with the least CPU."""
    pods = state.class_of(pod)
    source = state.candidates(pods).with_free

    def pick(gpus: Iterator[GpuBook], _pods: PodClass) -> GpuBook | None:
        looked = islice(gpus, _LOOK_WITHDRAWING)
        return min(looked, key=lambda gpu: gpu.node.cpu, default=None)

    return _seat_from(state, pod, pods, source, pick, carve=False)


def fits_beside(state: State, pod: Pod, nodes: Collection[NodeBook]) -> bool:
    """Whether a pod of one slice would fit on a node that is none of these."""
    pods = state.class_of(pod)
    if pods.failed_at is not None and pods.failed_at == state.moment(pods):
        return False
    on_these = False
    candidates = state.candidates(pods)
    for source, _ in _sources(state, pods, tightest):
        for gpu in candidates.fitting(source(pods), pods):
            if gpu.node not in nodes:
                return True
            on_these = True
    if not on_these:
        pods.failed_at = state.moment(pods)
    return False


def _sources(state: State, pods: PodClass, choose: Choose) -> tuple[tuple[_Source, Choose], ...]:
    candidates = state.candidates(pods)
    if not state.standing:
        return ((candidates.with_uncarved, choose),)
    return (
        (candidates.with_free, tightest),
        (candidates.with_uncarved, choose),
        (candidates.with_reclaimable, _least_withdrawn(state)),
    )


def _least_withdrawn(state: State) -> Choose:
    """Picks the GPU of which the fewest slices have to go, those that somebody wants least of all.

    For several slices of one pod only the largest is looked at.
    """
    wanted = state.wanted

    def cost(gpu: GpuBook, size: SliceSize) -> tuple[int, bool, int, int]:
        gone = gpu.withdrawn(wanted, size)
        asked_for = sum(1 for each in gone if wanted.get(each, 0) > 0)
        return asked_for, not gpu.node.carved, len(gone), gpu.reclaimable

    def choose(gpus: Iterator[GpuBook], pods: PodClass) -> GpuBook | None:
        looked = islice(gpus, _LOOK_WITHDRAWING)
        return min(looked, key=lambda gpu: cost(gpu, pods.largest), default=None)

    return choose


def _seat_from(
    state: State,
    pod: Pod,
    pods: PodClass,
    source: _Source,
    choose: Choose,
    *,
    carve: bool = True,
) -> Seating | None:
    candidates = state.candidates(pods)
    if pods.single:
        fitting = candidates.fitting(source(pods), pods)
        gpu = choose(fitting, pods)
        _close(fitting)
        return None if gpu is None else state.book(pod, pods, gpu.node, (gpu,))
    failed: dict[NodeBook, None] = {}
    drawn: list[GpuBook] = []  # compared with one that was tried, and not tried yet
    fitting = candidates.fitting(source(pods), pods)

    def untried() -> Iterator[GpuBook]:
        yield from tuple(drawn)
        for gpu in fitting:
            if gpu.node not in failed:
                drawn.append(gpu)
                yield gpu

    found: tuple[GpuBook, ...] | None = None
    while found is None and (gpu := choose(untried(), pods)) is not None:
        found = gpus_on(gpu.node, pods, carve=carve)
        if found is None:
            failed[gpu.node] = None
            drawn = [each for each in drawn if each.node not in failed]
    _close(fitting)
    if carve:
        candidates.block(list(failed))
    return None if found is None else state.book(pod, pods, found[0].node, found)


def _close(gpus: Iterator[GpuBook]) -> None:
    """Ends a walk, so that the index may change."""
    close = getattr(gpus, "close", None)
    if close is not None:
        close()


def gpus_on(node: NodeBook, pods: PodClass, *, carve: bool) -> tuple[GpuBook, ...] | None:
    """A GPU of the node for every seat, the largest slice first; None when they do not all fit."""
    return next(iter(ways_on(node, pods, 1, carve=carve)), None)


def ways_on(node: NodeBook, pods: PodClass, most: int, *, carve: bool) -> list[tuple[GpuBook, ...]]:
    """Up to so many ways to seat a pod's slices on the node, each with a GPU by seat.

    The GPUs that suit a slice best come first. After `_TRIES` of them no slice is moved for others.
    """
    if sum([gpu.reclaimable for gpu in node.gpus]) < pods.gb:
        return []
    sizes = [pods.seats[seat] for seat in pods.seating_order]
    ways: list[tuple[GpuBook, ...]] = []
    claimed: list[GpuBook] = []
    left = [iter(_able(node, pods, sizes[0], carve=carve))]  # by slice, the untried GPUs
    tries = _TRIES
    while left and len(ways) < most:
        gpu = next(left[-1], None)
        if gpu is not None:
            tries -= 1
            gpu.claim(sizes[len(claimed)])
            claimed.append(gpu)
            if len(claimed) < len(sizes):
                left.append(iter(_able(node, pods, sizes[len(claimed)], carve=carve)))
                continue
            by_seat = dict(zip(pods.seating_order, claimed, strict=True))
            ways.append(tuple([by_seat[seat] for seat in range(len(sizes))]))
        else:
            left.pop()
            if tries <= 0:
                break
        if claimed:
            claimed.pop().unclaim(sizes[len(claimed)])
    while claimed:
        claimed.pop().unclaim(sizes[len(claimed)])
    return ways


def _able(node: NodeBook, pods: PodClass, size: SliceSize, *, carve: bool) -> list[GpuBook]:
    """The GPUs with room for a slice, the one that suits it best first."""
    able = [g for g in node.gpus if g.reclaimable >= size and (carve or size in g.free)]
    if pods.spread:
        able = [gpu for gpu in able if pods.may_share(gpu)]
    able.sort(key=lambda g: (size not in g.free, g.uncarved < size, g.uncarved, g.index))
    return able


def strand_aware(cpu_per_gb: float) -> Choose:
    """Best fit that avoids leaving GPU memory on nodes without the CPU to use it.

    `cpu_per_gb`: thousandths of a CPU that pending pods ask for with each gb.
    """

    def stranded(room: int, cpu: int) -> float:
        return max(0.0, room - cpu / cpu_per_gb)

    def choose(gpus: Iterator[GpuBook], pods: PodClass) -> GpuBook | None:
        asked = max(pods.cpu, 0)

        def score(gpu: GpuBook) -> float:
            node = gpu.node
            after = stranded(node.room - pods.gb, node.cpu - asked)
            more = after - stranded(node.room, node.cpu)
            return gpu.uncarved + _STRANDED_WEIGHT * more + (0 if node.carved else 0.5)

        return min(islice(gpus, _LOOK), key=score, default=None)

    return choose
