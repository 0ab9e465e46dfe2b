"""Slices whose pod is gone while its processes may still use their GPU.

The kubelet gives the devices of a pod that is force-deleted away at once (its List leaves them
out), so that only the GPU's processes tell when a slice is really free.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Final, NoReturn, Protocol

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.reflector import Backoff
from nodeagent.errors import NvmlError
from nodeagent.hardware import GpuProcess
from nodeagent.pulse import Pulse
from nodeagent.slices.holders import Holder

_FIRST_LOOK: Final = 0.050
_LONGEST_LOOK: Final = 2.0

log = logging.getLogger(__name__)


class GpuUsers(Protocol):
    """What is needed of `Gpus`."""

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]: ...


def remains(
    holder: Holder, processes: Iterable[GpuProcess], live: Set[str]
) -> tuple[GpuProcess, ...]:
    """The processes of a pod that is gone.

    One whose uid an earlier agent has not left us is suspected behind every pod that is not live.
    """
    if holder.uid:
        return tuple(process for process in processes if process.pod_uid == holder.uid)
    return tuple(p for p in processes if p.pod_uid and p.pod_uid not in live)


class Leftovers:
    """`changed` beats when a slice has become free; `run` must be running for that."""

    def __init__(self, users: GpuUsers) -> None:
        self.changed = Pulse()
        self._users = users
        self._suspected = Pulse()
        self._suspects: dict[tuple[DeviceId, Holder], None] = {}

    def suspect(self, departed: Mapping[DeviceId, Holder]) -> None:
        """These held slices, and nobody has seen their containers end."""
        known = len(self._suspects)
        self._suspects.update(dict.fromkeys(departed.items()))
        if len(self._suspects) > known:
            self._suspected.beat()

    def holders(self) -> dict[DeviceId, Holder]:
        """The slices that are not free yet, each with one whose processes may still use it."""
        return dict(self._suspects.keys())

    async def until_free(self, device: DeviceId) -> None:
        """Returns once no process of an earlier holder is left; the caller's deadline."""
        while any(suspect == device for suspect, _ in self._suspects):
            await self.changed.after(self.changed.count)

    async def run(self, live: Callable[[], Set[str]]) -> NoReturn:
        """Looks at the GPUs of suspects until nothing is left of them; `live` are pods' uids."""
        backoff = Backoff(first=_FIRST_LOOK, longest=_LONGEST_LOOK)
        while True:
            seen = self._suspected.count
            if not self._suspects:
                await self._suspected.after(seen)
                backoff.reset()
                continue
            for gpu in {device.gpu for device, _ in self._suspects}:
                await self._look(gpu, live)
            if self._suspects and await self._suspected.within(seen, backoff.delay()):
                backoff.reset()

    async def _look(self, gpu: GpuUuid, live: Callable[[], Set[str]]) -> None:
        suspects = [suspect for suspect in self._suspects if suspect[0].gpu == gpu]
        try:
            processes = await self._users.processes(gpu)
        except NvmlError as error:
            log.info("who uses the GPU is not known", extra={"gpu": gpu, "error": str(error)})
            return
        free = [s for s in suspects if not remains(s[1], processes, live())]
        for suspect in free:
            del self._suspects[suspect]
        if free:
            self.changed.beat()
