"""Which GPUs are held and what their daemons grant at most. Pure.

Held is what was handed over with the node, and whatever else slices of ours still stand on: a
daemon's end ends its clients.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.container import slice_limit_mib
from nodeagent.hardware import Backstop, Gpu
from nodeagent.settings import Settings

NO_SLICE_MIB: Final = 1
"""What a daemon without slices grants; 0 would be no limit at all to the control program."""


def backstops(
    gpus: Iterable[Gpu],
    slices: Collection[DeviceId],
    used: Collection[DeviceId],
    settings: Settings,
    held: Mapping[GpuUuid, Backstop],
    *,
    release: bool,
) -> dict[GpuUuid, Backstop]:
    """What to ask of the daemons; `slices` are all that stand or are about to, `held` was asked
    before, by an earlier agent too.

    `release` hands back every GPU without slices. One that does not work is held on, because it
    may come back before its clients end; so is one that was in use and does not even show.
    """
    gpus = tuple(gpus)
    known = {gpu.uuid for gpu in gpus}
    found = {
        uuid: backstop
        for uuid, backstop in held.items()
        if uuid not in known and backstop.used and not release
    }
    for gpu in gpus:
        here = [device for device in slices if device.gpu == gpu.uuid]
        if here or not (release or gpu.refusal):
            limits = (slice_limit_mib(gpu, device, settings) for device in here)
            found[gpu.uuid] = Backstop(
                max(limits, default=NO_SLICE_MIB), used=any(device in used for device in here)
            )
    return found
