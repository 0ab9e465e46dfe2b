"""Waiting until the kubelet has taken in what it was told: the one place that polls it.

It looks once a list has been sent, when the kubelet has mostly taken it in already, and then at
millisecond intervals; the kubelet tells nobody when it has.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from mpslice.gpus import DeviceId
from nodeagent.errors import KubeletUnavailable

KNOWN_SECONDS: Final = 5.0
"""How long the kubelet is waited for."""

_PAUSES: Final = (0.001, 0.001, 0.002, 0.003, 0.005)
_LONGEST_PAUSE: Final = 0.010


Devices = frozenset[DeviceId]


class Allocatable(Protocol):
    """What is needed of PodResources."""

    async def allocatable(self) -> frozenset[DeviceId]: ...


class KubeletKnowledge:
    """Raises KubeletUnavailable when the kubelet has not followed within KNOWN_SECONDS."""

    def __init__(self, pod_resources: Allocatable) -> None:
        self._pod_resources = pod_resources

    async def until_known(self, offered: Callable[[], Devices]) -> Devices:
        """Returns what is offered once the kubelet shows all of it as healthy.

        It is asked for at each look: a GPU that turns unhealthy meanwhile is waited for no longer.
        """
        return await self._until(lambda shown: offered() - shown, offered, "does not know")

    async def until_hidden(self, hidden: Callable[[], Devices]) -> None:
        """Returns when the kubelet shows none of these as healthy; they are asked for at each look,
        as one that is offered again is waited for no longer.
        """
        await self._until(lambda shown: hidden() & shown, hidden, "still offers")

    async def _until(
        self,
        missing: Callable[[Devices], Devices],
        wanted: Callable[[], Devices],
        what: str,
    ) -> Devices:
        pauses = iter(_PAUSES)
        deadline = monotonic() + KNOWN_SECONDS
        while left := missing(await self._pod_resources.allocatable()):
            if monotonic() > deadline:
                some = ", ".join(sorted(str(device) for device in left)[:3])
                raise KubeletUnavailable(f"the kubelet {what} {some}; its log may tell why")
            await asyncio.sleep(next(pauses, _LONGEST_PAUSE))
        return wanted()
