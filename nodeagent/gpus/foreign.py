"""GPUs that other device plugins offer or hold: what the kubelet shows beside the node's status.

The kubelet tells nobody of it; the node's status does, some seconds later. So the kubelet is asked
when that changes, and every ten seconds while something foreign is there, to see it go.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn, Protocol

from mpslice.gpus import GpuUuid
from nodeagent.errors import KubeletUnavailable
from nodeagent.gpus.refusals import Devices, foreign_gpus
from nodeagent.hardware import Gpu
from nodeagent.pulse import Pulse

_AGAIN: Final = 10.0  # seconds

log = logging.getLogger(__name__)


class Others(Protocol):
    """What is needed of PodResources."""

    async def others(self) -> dict[str, frozenset[str]]: ...


class ForeignDevices:
    """`gpus` are those that somebody else has, with the resource; `changed` beats with it."""

    def __init__(self, pod_resources: Others, ours: Callable[[], Sequence[Gpu]]) -> None:
        self.gpus: Mapping[GpuUuid, str] = {}
        self.changed = Pulse()
        self.known = Pulse()  # beats when the kubelet has been asked
        self._pod_resources = pod_resources
        self._ours = ours
        self._devices: Devices = {}
        self._allocatable: Mapping[str, int] = {}
        self._stale = Pulse()

    def saw_node(self, others: Mapping[str, int]) -> None:
        """How many devices of each resource that is not ours the node's status offers."""
        if others != self._allocatable:
            self._allocatable = others
            self._stale.beat()

    def saw_kubelet(self) -> None:
        """It may be another one."""
        self._stale.beat()

    async def run(self) -> NoReturn:
        """Keeps `gpus` true until cancelled."""
        while True:
            seen = self._stale.count
            try:
                await self._read()
            except KubeletUnavailable as error:
                log.info("foreign devices are not known for now", extra={"error": str(error)})
                await self._stale.within(seen, _AGAIN)
                continue
            if self.gpus:
                await self._stale.within(seen, _AGAIN)
            else:
                await self._stale.after(seen)

    async def _read(self) -> None:
        devices = await self._pod_resources.others()
        # A plugin that restarts leaves the kubelet's list before it leaves the node's status.
        restarting = {
            resource: ids
            for resource, ids in self._devices.items()
            if resource not in devices and resource in self._allocatable
        }
        self._devices = {**restarting, **devices}
        gpus = foreign_gpus(self._ours(), self._devices, self._allocatable)
        if gpus != self.gpus:
            self.gpus = gpus
            self.changed.beat()
        self.known.beat()
