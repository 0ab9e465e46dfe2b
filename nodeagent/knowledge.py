"""Waiting until the kubelet has taken in what it was told: the one place that polls it.

It polls at millisecond intervals, and only between a list and the kubelet's showing it, which takes
about 3 ms; the kubelet tells nobody when it has.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from mpslice.gpus import DeviceId
from nodeagent.errors import KubeletUnavailable

KNOWN_SECONDS: Final = 5.0
"""How long the kubelet is waited for."""

_PAUSES: Final = (0.001, 0.001, 0.002, 0.003, 0.005)
_LONGEST_PAUSE: Final = 0.010


class Allocatable(Protocol):
    """What is needed of PodResources."""

    async def allocatable(self) -> frozenset[DeviceId]: ...


class KubeletKnowledge:
    """Raises KubeletUnavailable when the kubelet has not followed within KNOWN_SECONDS."""

    def __init__(self, pod_resources: Allocatable) -> None:
        self._pod_resources = pod_resources

    async def until_known(self, ids: Collection[DeviceId]) -> None:
        """Returns when the kubelet shows all of these as healthy."""
        await self._until(lambda shown: shown.issuperset(ids), ids, "does not know")

    async def until_hidden(self, ids: Collection[DeviceId]) -> None:
        """Returns when the kubelet shows none of these as healthy."""
        await self._until(lambda shown: shown.isdisjoint(ids), ids, "still offers")

    async def _until(
        self, done: Callable[[frozenset[DeviceId]], bool], ids: Iterable[DeviceId], what: str
    ) -> None:
        try:
            async with asyncio.timeout(KNOWN_SECONDS):
                pauses = iter(_PAUSES)
                while not done(await self._pod_resources.allocatable()):  # noqa: ASYNC110  no event
                    await asyncio.sleep(next(pauses, _LONGEST_PAUSE))
        except TimeoutError as error:
            some = ", ".join(str(device) for device in list(ids)[:3])
            raise KubeletUnavailable(f"the kubelet {what} {some}") from error
