"""Which of several free slices the kubelet is told to take.

The agent answers GetPreferredAllocation with it and the planner predicts with it, so it stands
here, once: the GPU that has least free memory first, which keeps the large holes large.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpslice.gpus import DeviceId, GpuUuid


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """What the order looks at: the GPU's index, and its capacity less its used slices, in gb."""

    index: int
    free_gb: int


def preferred(
    available: Iterable[DeviceId],
    count: int,
    rooms: Mapping[GpuUuid, GpuRoom],
    *,
    must_include: Sequence[DeviceId] = (),
) -> tuple[DeviceId, ...]:
    """`count` of `available`, those of `must_include` first, then in the order described below.

    The GPU with the least free gb first, then the lowest GPU index, then the lowest ordinal. Slices
    of a GPU that `rooms` does not know come last. The result does not depend on the order of
    `available`, and is shorter than `count` when there are too few.
    """
    forced = set(must_include)
    rest = sorted(
        (device for device in set(available) if device not in forced),
        key=lambda device: rank(device, rooms),
    )
    return (*must_include, *rest)[: max(count, 0)]


def rank(
    device: DeviceId, rooms: Mapping[GpuUuid, GpuRoom]
) -> tuple[bool, int, int, str, int, int]:
    """The sort key of a slice; the lowest is taken first."""
    room = rooms.get(device.gpu)
    known = room or GpuRoom(index=0, free_gb=0)
    return (room is None, known.free_gb, known.index, device.gpu, device.size, device.ordinal)
