"""Which slices stand on a node's GPUs and whose they are, from its layout and the pods bound to it.

A node whose layout cannot be true is not guessed about: Contradiction says what is wrong. A layout
read from JSON has passed the codec's checks already; these hold for records from anywhere. Plain
loops, because this runs over every slice of the cluster for each plan.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mpslice.allocation import GpuRoom, preferred
from mpslice.gpus import MAX_SLICES_PER_GPU, DeviceId, GpuUuid
from mpslice.nodelayout import (
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
    Slices,
    SliceState,
)
from mpslice.slices import SliceSize
from planner.model.nodes import Gpu
from planner.model.pods import Pod
from planner.state.members import NOBODY, Members, join, members_of, suitable

Held = dict[str, dict[SliceSize, int]]
"""The used slices by pod; under "" those whose pod the agent does not know yet."""

_MOST_GB: Final = 1 << 17
"""No GPU has so much memory; a plan's effort grows with it."""


class Contradiction(Exception):
    """A node says what cannot be; the message is a clause for people."""


@dataclass(slots=True)
class _Count:
    """A GPU while a node's claims are being settled; memory in gb.

    `shown` are the slices that stand, `free` those that are to stand and that nobody has.
    """

    uuid: GpuUuid
    index: int
    product: str
    capacity: int
    most: int  # slices
    shown: Slices
    used: dict[SliceSize, int]
    free: dict[SliceSize, int]
    used_gb: int
    free_gb: int

    @property
    def uncarved_gb(self) -> int:
        return self.capacity - self.used_gb - self.free_gb

    def stands(self, size: SliceSize) -> bool:
        """Whether a slice of the size is here that nobody has."""
        return self.shown.get(size, 0) > self.used.get(size, 0)

    def has_room(self, size: SliceSize) -> bool:
        """Whether a slice that is to come fits beside those that are used."""
        return self.used_gb + size <= self.capacity

    def hold(self, size: SliceSize) -> None:
        """Counts one more as used: a free one of the size, if there is any."""
        if size in self.free:
            self.free[size] -= 1
            self.free_gb -= size
            if not self.free[size]:
                del self.free[size]
        self.used[size] = self.used.get(size, 0) + 1
        self.used_gb += size
        self.settle()

    def settle(self) -> None:
        """Where a slice that was to go has been taken, not all that was to come has room: then
        nothing comes. Where nothing was to come, what is to go stays out of it.
        """
        if not self.free:
            return
        number = sum(self.used.values()) + sum(self.free.values())
        if self.used_gb + self.free_gb > self.capacity or number > self.most:
            self.free, self.free_gb = _beside(self.used, self.shown)


def gpus_of(
    layout: NodeLayout | None, pods: Iterable[Pod], most: int = MAX_SLICES_PER_GPU
) -> tuple[Gpu, ...]:
    """The GPUs of a node that may be carved, by index; `pods` are those bound to it, and `most` is
    how many slices a GPU may have.

    None while the agent has not reported that it serves the node. Raises Contradiction.
    """
    if layout is None or layout.status is None or not layout.status.is_true(ConditionType.READY):
        return ()
    held: Held = {}
    counts = _count_all(layout, layout.status, held, most)
    pods = tuple(pods)
    members = members_of(layout.status, pods)
    _settle_claims(counts, held, pods, members)
    counts.sort(key=lambda gpu: (gpu.index, gpu.uuid))
    return tuple(
        [
            Gpu(g.uuid, g.index, g.capacity, g.product, g.used, g.free, members.get(g.uuid, NOBODY))
            for g in counts
        ]
    )


def spec_was_refused(layout: NodeLayout) -> bool:
    """Whether the agent has seen this spec and says that it cannot apply it: then status counts."""
    status = layout.status or LayoutStatus()
    applied = status.condition(ConditionType.APPLIED)
    return (
        applied is not None
        and not applied.status
        and status.observed_generation >= layout.generation
    )


def _count_all(layout: NodeLayout, status: LayoutStatus, held: Held, most: int) -> list[_Count]:
    """Every healthy GPU. What exists is what the spec says, since the agent is heading there."""
    refused = spec_was_refused(layout)
    specs = () if refused else layout.spec.gpus
    wanted = {gpu.uuid: gpu.slices for gpu in specs}
    if len(wanted) < len(specs):
        raise Contradiction(f"the layout wants {_first_twice(g.uuid for g in specs)} twice")
    counts = [_count(gpu, wanted.get(gpu.uuid), held, most) for gpu in status.gpus]
    if len({gpu.uuid for gpu in status.gpus}) < len(counts):
        raise Contradiction(f"GPU {_first_twice(g.uuid for g in status.gpus)} is listed twice")
    healthy = zip(counts, status.gpus, strict=True)
    return [count for count, gpu in healthy if gpu.healthy]


def _first_twice(names: Iterable[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


def _count(gpu: GpuStatus, wanted: Slices | None, held: Held, most: int) -> _Count:
    """One GPU as status and spec have it; notes in `held` who uses its slices."""
    if not 0 <= gpu.capacity_gb <= _MOST_GB and gpu.healthy:
        raise Contradiction(f"GPU {gpu.index} has {gpu.capacity_gb}gb")
    used: dict[SliceSize, int] = {}
    shown: dict[SliceSize, int] = {}
    for entry in gpu.slices:
        size = entry.id.size
        shown[size] = shown.get(size, 0) + 1
        if entry.state is SliceState.USED:
            used[size] = used.get(size, 0) + 1
            mine = held.setdefault(entry.pod or "", {})
            mine[size] = mine.get(size, 0) + 1
    used_gb, _ = _total(used, gpu, "are used"), _total(shown, gpu, "stand")
    if gpu.slices:
        _check_ids(gpu)
    if wanted is None:
        wanted = shown
    elif wanted:
        _total(wanted, gpu, "are wanted")
    free, free_gb = _beside(used, wanted)
    uuid, index, capacity = gpu.uuid, gpu.index, gpu.capacity_gb
    count = _Count(uuid, index, gpu.product, capacity, most, shown, used, free, used_gb, free_gb)
    count.settle()
    return count


def _beside(used: Slices, slices: Slices) -> tuple[dict[SliceSize, int], int]:
    """Those of the slices that nobody uses, and their gb."""
    free: dict[SliceSize, int] = {}
    gb = 0
    for size, count in slices.items():
        left = count - used.get(size, 0)
        if left > 0:
            free[size] = left
            gb += left * size
    return free, gb


def _total(slices: Slices, gpu: GpuStatus, what: str) -> int:
    """The gb of slices that must fit the GPU."""
    total = 0
    for size, count in slices.items():
        if size < 1 or count < 0:
            raise Contradiction(f"{count} slices of {size}gb {what} on GPU {gpu.index}")
        total += size * count
    if total > gpu.capacity_gb and gpu.healthy:
        raise Contradiction(f"{total}gb {what} on GPU {gpu.index}, which has {gpu.capacity_gb}gb")
    return total


def _check_ids(gpu: GpuStatus) -> None:
    for entry in gpu.slices:
        if entry.id.gpu != gpu.uuid:
            raise Contradiction(f"GPU {gpu.index} lists slice {entry.id}, which is another GPU's")
    ids = {(entry.id.size, entry.id.ordinal) for entry in gpu.slices}
    if len(ids) < len(gpu.slices):
        twice = _first_twice(str(entry.id) for entry in gpu.slices)
        raise Contradiction(f"GPU {gpu.index} lists slice {twice} twice")


def _settle_claims(
    gpus: Sequence[_Count], held: Held, pods: Iterable[Pod], members: Members
) -> None:
    """Gives the pods that are bound, but not seen to hold their slices yet, free ones of the size.

    First what stands, since the kubelet gives nothing else: what is to stay, then what is to go.
    Then what is to come, in case it has come already. Where there is none, the memory counts as
    held on the tightest GPU that has it: a bound pod holds what it requests. In each case in the
    order in which the kubelet takes them.
    """
    late = [(pod, seats) for pod in pods if pod.seats and (seats := _missing(pod, held))]
    if not late:
        return
    anonymous = Counter(held.get("", {}))  # allocated, and it is not known yet for whom
    left: list[tuple[Pod, SliceSize]] = []
    for pod, missing in sorted(late, key=lambda item: item[0].key):
        known = missing & anonymous
        anonymous -= known
        left += [(pod, size) for size in sorted((missing - known).elements())]
    for choose in (_staying, _leaving, _coming, _uncarved):
        without: list[tuple[Pod, SliceSize]] = []
        for pod, size in left:
            gpu = choose(suitable(gpus, pod, members), size)
            if gpu is None:
                without.append((pod, size))
                continue
            gpu.hold(size)
            if pod.spread:
                join(members, gpu.uuid, pod)
        left = without


def _missing(pod: Pod, held: Held) -> Counter[SliceSize] | None:
    """What the pod is not seen to hold yet; None when that is nothing."""
    mine = held.get(pod.key)
    seats = pod.seats
    if mine and len(seats) == 1 and mine.get(seats[0]):
        return None
    for size in seats:
        if size < 1:
            raise Contradiction(f"pod {pod.key} asks for a slice of {size}gb")
    return Counter(seats) - Counter(mine or {})


def _staying(gpus: Sequence[_Count], size: SliceSize) -> _Count | None:
    return _next_taken((g for g in gpus if size in g.free and g.stands(size)), size)


def _leaving(gpus: Sequence[_Count], size: SliceSize) -> _Count | None:
    return _next_taken((g for g in gpus if g.stands(size)), size)


def _coming(gpus: Sequence[_Count], size: SliceSize) -> _Count | None:
    return _next_taken((g for g in gpus if size in g.free and g.has_room(size)), size)


def _uncarved(gpus: Sequence[_Count], size: SliceSize) -> _Count | None:
    able = (gpu for gpu in gpus if gpu.uncarved_gb >= size)
    return min(able, key=lambda gpu: (gpu.uncarved_gb, gpu.index), default=None)


def _next_taken(having: Iterable[_Count], size: SliceSize) -> _Count | None:
    """The GPU whose slice of the size the kubelet takes next."""
    by_uuid = {gpu.uuid: gpu for gpu in having}
    rooms = {g.uuid: GpuRoom(g.index, g.capacity - g.used_gb) for g in by_uuid.values()}
    first = preferred((DeviceId(uuid, size, 0) for uuid in by_uuid), 1, rooms)
    return by_uuid[first[0].gpu] if first else None
