"""What the device plugin answers, without gRPC: lists, preferences, allocations, readiness.

`Allocate` knows no pod and no container, so everything follows from the ids, and answering the same
id twice answers the same.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from mpslice.allocation import GpuRoom, preferred
from mpslice.errors import InvalidDeviceId
from mpslice.gpus import DeviceId, GpuUuid, capacity_gb
from mpslice.slices import SliceSize
from nodeagent.errors import AgentError, UnknownSlice
from nodeagent.hardware import Gpu, MpsControl
from nodeagent.kubelet.container import ContainerEdits, container_edits
from nodeagent.pulse import Pulse
from nodeagent.settings import Settings
from nodeagent.slices.inventory import Inventory, Listed
from nodeagent.slices.ledger import Ledger

READY_SECONDS: Final = 25.0
"""How long a container waits for its daemon: the kubelet gives PreStartContainer 30 s."""

log = logging.getLogger(__name__)


class SliceService:
    """Answers for all sizes; an AgentError is what the pod's status will say."""

    def __init__(
        self, settings: Settings, inventory: Inventory, ledger: Ledger, mps: MpsControl
    ) -> None:
        self._settings = settings
        self._inventory = inventory
        self._ledger = ledger
        self._mps = mps

    @property
    def changed(self) -> Pulse:
        """Beats when a list may have changed."""
        return self._inventory.changed

    def devices(self, size: SliceSize) -> tuple[Listed, ...]:
        return self._inventory.devices(size)

    def prefer(
        self, available: Sequence[str], must_include: Sequence[str], count: int
    ) -> tuple[str, ...]:
        """What `mpslice.allocation` prefers; it never fails, because an error fails the pod.

        Slices that are about to be withdrawn, or that processes of a pod that is gone may still
        use, come last.
        """
        try:
            ids = [DeviceId.parse(text) for text in available]
            free = [device for device in ids if self._is_free(device)]
            forced = [DeviceId.parse(text) for text in must_include]
            rooms = self._rooms()
            chosen = preferred(free, count, rooms, must_include=forced)
            if len(chosen) < count:
                chosen = preferred(ids, count, rooms, must_include=chosen)
        except InvalidDeviceId as error:
            log.warning("the kubelet offers an id that is not ours", extra={"error": str(error)})
            return tuple(dict.fromkeys((*must_include, *available)))[:count]
        return tuple(str(device) for device in chosen)

    def _is_free(self, device: DeviceId) -> bool:
        return not (self._ledger.is_left_over(device) or self._inventory.is_closed(device))

    def _rooms(self) -> dict[GpuUuid, GpuRoom]:
        return {gpu.uuid: GpuRoom(gpu.index, self._free_gb(gpu)) for gpu in self._gpus()}

    def _gpus(self) -> Iterable[Gpu]:
        return self._inventory.gpus.values()

    def _free_gb(self, gpu: Gpu) -> int:
        used = sum(device.size for device in self._ledger.holders if device.gpu == gpu.uuid)
        return capacity_gb(gpu.memory_mib, self._settings.memory_unit) - used

    def allocate(self, texts: Sequence[str]) -> ContainerEdits:
        """The edits for one container, which holds the slice from now on.

        Raises UnknownSlice for an id that does not stand (any more), and AgentError for several:
        a client speaks to one MPS server and obeys one limit.
        """
        ids = [self._standing(text) for text in texts]
        if len(ids) != 1:
            raise AgentError(
                f"a container can have one slice and asks for {len(ids)}; "
                "request one larger slice instead"
            )
        gpu = self._inventory.gpus[ids[0].gpu]
        self._ledger.allocated(ids)
        return container_edits(gpu, ids[0], self._settings)

    def _standing(self, text: str) -> DeviceId:
        try:
            device = DeviceId.parse(text)
        except InvalidDeviceId as error:
            raise UnknownSlice(str(error)) from error
        if device not in self._inventory or device.gpu not in self._inventory.gpus:
            raise UnknownSlice(f"slice {device} was withdrawn; the pod has to be created anew")
        return device

    async def prepare(self, texts: Sequence[str]) -> None:
        """Before every start of a container: its pipe directory exists, its daemon is ready, and
        nobody else's process is left in its slice.

        Raises AgentError when it is not so within READY_SECONDS.
        """
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        for device in map(DeviceId.parse, texts):
            await asyncio.to_thread(_make_directories, self._settings, device.gpu)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._mps.wait_ready(device.gpu)
            except TimeoutError as error:
                raise AgentError(self._not_ready(device.gpu)) from error
            try:
                async with asyncio.timeout_at(deadline):
                    await self._ledger.vacated(device)
            except TimeoutError as error:
                raise AgentError(self._not_vacated(device)) from error

    def _not_ready(self, gpu: GpuUuid) -> str:
        health = self._mps.health().get(gpu)
        why = f": {health.detail}" if health is not None and health.detail else ""
        return f"the MPS daemon of {gpu} is not ready after {READY_SECONDS:.0f} s{why}"

    def _not_vacated(self, device: DeviceId) -> str:
        after = f"after {READY_SECONDS:.0f} s"
        if self._ledger.is_left_over(device):
            return f"slice {device} is still used by processes of a pod that is gone {after}"
        return f"whether slice {device} is still used by a pod that is gone is not known {after}"


def _make_directories(settings: Settings, gpu: GpuUuid) -> None:
    """Makes what containers mount from the host; a mount of what is missing fails the container.

    The MPS server becomes the client's user, so every directory down to the pipe is open to pass.
    """
    settings.pipe_directory(gpu).mkdir(mode=0o755, parents=True, exist_ok=True)
    if not settings.host_ipc:
        settings.shared_memory.mkdir(parents=True, exist_ok=True)
        settings.shared_memory.chmod(0o1777)
