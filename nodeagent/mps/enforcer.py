"""MPS as the enforcer of slices: a daemon for each GPU, and a limit for each container."""

import asyncio
from collections.abc import Collection, Mapping

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.container import container_edits
from nodeagent.edits import ContainerEdits
from nodeagent.hardware import Gpu, MpsControl, MpsHealth
from nodeagent.mps.backstops import backstops
from nodeagent.pulse import Pulse
from nodeagent.seams import Demand
from nodeagent.settings import Settings


class MpsEnforcer:
    """See `Enforcer`. A slice is enforced once its GPU's daemon grants the largest one there."""

    def __init__(self, settings: Settings, mps: MpsControl) -> None:
        self._settings = settings
        self._mps = mps

    @property
    def changed(self) -> Pulse:
        return self._mps.changed

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        return self._mps.health()

    def edits(self, gpu: Gpu, slice_: DeviceId) -> ContainerEdits:
        return container_edits(gpu, slice_, self._settings)

    async def grant(self, demand: Demand) -> None:
        wanted = backstops(
            demand.gpus,
            demand.slices,
            demand.used,
            self._settings,
            self._mps.held,
            release=demand.release,
        )
        await self._mps.hold(wanted)

    async def lagging(self, gpus: Collection[GpuUuid], seconds: float) -> frozenset[GpuUuid]:
        return await self._mps.lagging(gpus, seconds)

    async def ready(self, slice_: DeviceId) -> None:
        """The directories that the container mounts are there, and the daemon serves.

        A mount of a directory that is missing would fail the container.
        """
        await asyncio.to_thread(_make_directories, self._settings, slice_.gpu)
        await self._mps.wait_ready(slice_.gpu)


def _make_directories(settings: Settings, gpu: GpuUuid) -> None:
    """The MPS server becomes the client's user, so each directory on its way is open to pass."""
    settings.pipe_directory(gpu).mkdir(mode=0o755, parents=True, exist_ok=True)
    if not settings.host_ipc:
        settings.shared_memory.mkdir(parents=True, exist_ok=True)
        settings.shared_memory.chmod(0o1777)
