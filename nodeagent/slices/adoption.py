"""Which slices a starting agent takes over from the one before it. Pure.

What a container holds stands, whatever else is said; free ones stand as far as they fit beside,
because an agent may have died between a withdrawal and the report of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mpslice.gpus import MAX_SLICES_PER_GPU, DeviceId, GpuUuid


@dataclass(frozen=True, slots=True)
class Adoption:
    """`lost` are on GPUs that the node no longer has; `dropped` are free and do not fit."""

    adopted: tuple[DeviceId, ...] = ()
    dropped: tuple[DeviceId, ...] = ()
    lost: tuple[DeviceId, ...] = ()


@dataclass(slots=True)
class _Room:
    gb: int
    places: int = MAX_SLICES_PER_GPU
    ids: list[DeviceId] = field(default_factory=list)


def adopt(
    capacities: Mapping[GpuUuid, int], standing: Iterable[DeviceId], free: Iterable[DeviceId]
) -> Adoption:
    """Sorts out slices that `standing` (held, or adopted before) and `free` ones name.

    `capacities` in gb. Held ones are adopted even beyond it; free ones in the order of their ids.
    """
    rooms = {uuid: _Room(gb) for uuid, gb in capacities.items()}
    lost = [device for device in (*standing, *free) if device.gpu not in rooms]
    first = dict.fromkeys(device for device in standing if device.gpu in rooms)
    for device in first:
        _put(rooms[device.gpu], device)
    dropped = []
    for device in sorted(set(free) - first.keys() - set(lost), key=_order):
        room = rooms[device.gpu]
        if device.size <= room.gb and room.places > 0:
            _put(room, device)
        else:
            dropped.append(device)
    adopted = tuple(device for room in rooms.values() for device in room.ids)
    return Adoption(adopted, tuple(dropped), tuple(dict.fromkeys(lost)))


def _put(room: _Room, device: DeviceId) -> None:
    room.ids.append(device)
    room.gb -= device.size
    room.places -= 1


def _order(device: DeviceId) -> tuple[str, int, int]:
    return (device.gpu, device.size, device.ordinal)
