"""From the slices that stand and the layout that is wanted to the next thing to do. Pure.

The executor acts on one decision and asks again, until there is nothing left to do: so a withdrawal
that failed, a crash or a layout that changed meanwhile need no cases of their own.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mpslice.gpus import MAX_SLICES_PER_GPU, DeviceId, GpuUuid
from mpslice.nodelayout import LayoutSpec, Slices
from mpslice.slices import SliceSize, size_label


class Obstacle(StrEnum):
    """Why a layout is not applied; the condition's reason."""

    UNKNOWN_GPU = "UnknownGpu"
    GPU_UNHEALTHY = "GpuUnhealthy"
    GPU_REFUSED = "GpuRefused"
    TOO_LARGE = "TooLarge"
    SLICE_IN_USE = "SliceInUse"
    NO_ROOM = "NoRoom"
    PODS_PENDING = "PodsPending"


@dataclass(frozen=True, slots=True)
class Standing:
    """A slice that stands; `kept` says why it may not be withdrawn now, though it is free."""

    id: DeviceId
    used: bool = False
    kept: Obstacle | None = None


@dataclass(frozen=True, slots=True)
class StandingGpu:
    """A GPU with all its slices; capacity in gb.

    `refusal` says why it is to be left alone. One that is `starting` can be carved in a moment.
    """

    uuid: GpuUuid
    capacity_gb: int
    healthy: bool = True
    refusal: str = ""
    slices: tuple[Standing, ...] = ()
    starting: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something of the layout that cannot be done now, and why."""

    obstacle: Obstacle
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next: carve, or, when there is nothing to carve, withdraw.

    Without either the layout is applied as far as it can be, and `blocked` says what is not. What
    is `waiting` can be done in a moment, so the layout is not decided upon before.
    """

    carve: tuple[DeviceId, ...] = ()
    withdraw: tuple[DeviceId, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    waiting: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        return not self.carve and not self.withdraw


@dataclass(slots=True)
class _GpuPlan:
    carve: list[DeviceId] = field(default_factory=list)
    withdraw: list[DeviceId] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def decide(gpus: Sequence[StandingGpu], spec: LayoutSpec) -> Decision:
    """The next step towards `spec`.

    A used slice is never withdrawn, no id is renumbered, a GPU is never carved beyond its capacity
    or 48 slices, and a GPU that `spec` does not list is left as it is (unless it says `release`).
    One that is refused loses its free slices, whatever `spec` says.
    """
    wanted = {gpu.uuid: gpu.slices for gpu in spec.gpus}
    known = {gpu.uuid for gpu in gpus}
    if spec.release:
        wanted = {uuid: {} for uuid in known}
    # Who is on its way may be given any slice of the size, so one that waits tells of them all.
    awaited = frozenset(
        s.id.size for gpu in gpus for s in gpu.slices if s.kept is Obstacle.PODS_PENDING
    )
    plans = [
        _decide_gpu(gpu, wanted.get(gpu.uuid, {}), awaited)
        for gpu in gpus
        if gpu.uuid in wanted or gpu.refusal
    ]
    unknown = [
        Blocked(Obstacle.UNKNOWN_GPU, f"{uuid} is not a GPU of this node")
        for uuid in wanted
        if uuid not in known
    ]
    carve = tuple(device for plan in plans for device in plan.carve)
    return Decision(
        carve=carve,
        withdraw=() if carve else tuple(device for plan in plans for device in plan.withdraw),
        blocked=(*unknown, *(blocked for plan in plans for blocked in plan.blocked)),
        waiting=tuple(what for plan in plans for what in plan.waiting),
    )


def still_goes(ids: Collection[DeviceId], gpus: Sequence[StandingGpu], spec: LayoutSpec) -> bool:
    """Whether all of `ids`, which stand free, are too many for `spec` as well."""
    wanted = {gpu.uuid: gpu.slices for gpu in spec.gpus}
    for gpu in gpus:
        going = Counter(id_.size for id_ in ids if id_.gpu == gpu.uuid)
        if gpu.refusal or spec.release or not going:
            continue  # all that is free goes
        standing = Counter(s.id.size for s in gpu.slices)
        kept = wanted.get(gpu.uuid, standing)  # one that is not listed is left as it is
        if any(standing[size] - kept.get(size, 0) < count for size, count in going.items()):
            return False
    return True


def _decide_gpu(gpu: StandingGpu, wanted: Slices, awaited: Collection[SliceSize]) -> _GpuPlan:
    plan = _GpuPlan()
    if gpu.refusal:
        return _clear(gpu, wanted, awaited)
    refusal = _refusal(gpu, wanted)
    if refusal is not None:
        plan.blocked.append(refusal)
        return plan
    for size in sorted({s.id.size for s in gpu.slices}):
        _withdraw(gpu, size, wanted.get(size, 0), plan, awaited)
    if gpu.starting and Counter(wanted) - Counter(s.id.size for s in gpu.slices):
        plan.waiting.append(f"the MPS daemon of {gpu.uuid} is starting")
    else:
        _carve(gpu, wanted, plan)
    return plan


def _clear(gpu: StandingGpu, wanted: Slices, awaited: Collection[SliceSize]) -> _GpuPlan:
    used = Counter(s.id.size for s in gpu.slices if s.used)
    plan = _GpuPlan()
    for size in sorted({s.id.size for s in gpu.slices}):
        _withdraw(gpu, size, min(used[size], wanted.get(size, 0)), plan, awaited)
    if Counter(wanted) - used:
        plan.blocked.append(
            Blocked(Obstacle.GPU_REFUSED, f"{gpu.uuid} is left alone: {gpu.refusal}")
        )
    return plan


def _refusal(gpu: StandingGpu, wanted: Slices) -> Blocked | None:
    total = sum(size * count for size, count in wanted.items())
    count = sum(wanted.values())
    if total > gpu.capacity_gb:
        message = f"{gpu.uuid}: {total} gb of slices do not fit into its {gpu.capacity_gb} gb"
        return Blocked(Obstacle.TOO_LARGE, message)
    if count > MAX_SLICES_PER_GPU:
        message = f"{gpu.uuid}: {count} slices, and MPS serves {MAX_SLICES_PER_GPU} clients"
        return Blocked(Obstacle.TOO_LARGE, message)
    missing = Counter(wanted) - Counter(s.id.size for s in gpu.slices)
    if missing and not gpu.healthy:
        message = f"{gpu.uuid} is unhealthy: nothing is carved there"
        return Blocked(Obstacle.GPU_UNHEALTHY, message)
    return None


def _withdraw(
    gpu: StandingGpu,
    size: SliceSize,
    wanted: int,
    plan: _GpuPlan,
    awaited: Collection[SliceSize],
) -> None:
    standing = [s for s in gpu.slices if s.id.size == size]
    surplus = len(standing) - wanted
    if size in awaited and surplus > 0:
        what = f"{surplus} of {size_label(size)} on {gpu.uuid}"
        message = f"{what}: pods that need the size are, or may be, on their way"
        plan.blocked.append(Blocked(Obstacle.PODS_PENDING, message))
        return
    # Low ordinals stay: they are what the kubelet is told to prefer.
    free = sorted((s.id for s in standing if not s.used and s.kept is None), key=_ordinal)
    going = free[max(0, len(free) - surplus) :] if surplus > 0 else []
    plan.withdraw += going
    if surplus > len(going):
        what = f"{surplus - len(going)} of {size_label(size)} on {gpu.uuid}"
        plan.blocked.append(Blocked(Obstacle.SLICE_IN_USE, f"{what} should go and is in use"))


def _carve(gpu: StandingGpu, wanted: Slices, plan: _GpuPlan) -> None:
    room = gpu.capacity_gb - sum(s.id.size for s in gpu.slices)
    places = MAX_SLICES_PER_GPU - len(gpu.slices)
    taken = {s.id for s in gpu.slices}
    for size in sorted(wanted, reverse=True):
        missing = wanted[size] - sum(1 for s in gpu.slices if s.id.size == size)
        new = _free_ids(gpu.uuid, size, max(0, min(missing, room // size, places)), taken)
        plan.carve += new
        room -= size * len(new)
        places -= len(new)
        if missing > len(new) and not plan.withdraw:
            what = f"{missing - len(new)} of {size_label(size)} on {gpu.uuid}"
            plan.blocked.append(Blocked(Obstacle.NO_ROOM, f"{what} do not fit beside what stands"))


def _free_ids(
    uuid: GpuUuid, size: SliceSize, count: int, taken: Iterable[DeviceId]
) -> list[DeviceId]:
    used = {device.ordinal for device in taken if device.size == size}
    ordinals = (n for n in range(count + len(used)) if n not in used)
    return [DeviceId(uuid, size, next(ordinals)) for _ in range(count)]


def _ordinal(device: DeviceId) -> int:
    return device.ordinal
