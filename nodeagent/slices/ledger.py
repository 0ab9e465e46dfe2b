"""Keeps track of who holds which slice as the kubelet allocates and pods end.

The decision is `holders.resolve`; here stands when the evidence is read again: when the kubelet
has written its checkpoint, and at short intervals while an Allocate of ours is not yet explained.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Final, NoReturn, Protocol

from mpslice.gpus import DeviceId
from mpslice.kube.reflector import Backoff
from nodeagent.errors import KubeletUnavailable
from nodeagent.kubelet.checkpoint import read_checkpoint
from nodeagent.pulse import Pulse
from nodeagent.slices.holders import (
    Claim,
    Evidence,
    Holder,
    Pods,
    departed,
    explained,
    resolve,
    with_uids,
)
from nodeagent.slices.leftovers import Leftovers
from nodeagent.slices.pods import PodFacts

FORGOTTEN_SECONDS: Final = 30.0
"""An Allocate that no evidence explains for so long was for a pod that failed its admission."""

_FIRST_LOOK: Final = 0.005
_LONGEST_LOOK: Final = 10.0

log = logging.getLogger(__name__)


class Lister(Protocol):
    """What the ledger needs of PodResources."""

    async def list(self) -> tuple[Claim, ...]: ...


class Ledger:
    """`holders` is every slice that is held, as far as is known now; `changed` beats with it."""

    def __init__(
        self,
        pod_resources: Lister,
        checkpoint: Path,
        pods: Callable[[], Pods],
        leftovers: Leftovers,
    ) -> None:
        self._pod_resources = pod_resources
        self._checkpoint = checkpoint
        self._pods = pods
        self._last_pods = Pods()
        self._leftovers = leftovers
        leftovers.changed.listen(self._resolve)
        self._evidence = Evidence()
        self.foreign: frozenset[str] = frozenset()  # uids of pods with somebody else's slices
        self._told: dict[DeviceId, Holder] = {}  # by the evidence alone
        self._holders: dict[DeviceId, Holder] = {}
        self._allocated: dict[DeviceId, float] = {}
        self._stale = Pulse()
        self._reading = asyncio.Lock()  # an older reading must not replace a newer one
        self._begun = 0  # readings
        self._ended = 0  # the last of them that ended
        self._failure = ""  # and why it told nothing
        self.changed = Pulse()
        self.known = Pulse()  # beats when all evidence has been read
        self.holders: Mapping[DeviceId, Holder] = MappingProxyType(self._holders)

    def shows(self, pod: PodFacts) -> bool:
        """Whether the kubelet has shown a slice for each container of the pod that needs one."""
        claims = (*self._evidence.listed, *self._evidence.checkpointed)
        shown = {(c.container, c.id.size) for c in claims if c.uid == pod.uid}
        return all((need.container, need.size) in shown for need in pod.needs)

    def allocated(self, ids: Iterable[DeviceId]) -> None:
        """The kubelet was just given these; they are held from now on."""
        now = monotonic()
        for device in ids:
            self._allocated[device] = now
            self._told.setdefault(device, Holder())
            self._holders.setdefault(device, Holder())
        self._stale.beat()

    def remember(self, holders: Mapping[DeviceId, Holder]) -> None:
        """What an earlier process knew; it holds while those pods live."""
        for device, holder in holders.items():
            self._told.setdefault(device, holder)
            self._holders.setdefault(device, holder)

    def checkpoint_written(self) -> None:
        """The kubelet wrote its checkpoint: it may explain an Allocate.

        Without one it is only the echo of a list of ours, or of somebody else's plugin.
        """
        if self._allocated:
            self._stale.beat()

    def pods_changed(self) -> None:
        """A pod came, went or ended: judges the evidence anew."""
        self._resolve()
        if self._has_strangers():
            self._stale.beat()

    def kubelet_changed(self) -> None:
        """A kubelet began or ceased to listen; it may be another one."""
        self._stale.beat()

    def _has_strangers(self) -> bool:
        """Whether the kubelet listed a pod that the API did not know: not yet, or no more."""
        return not all(claim.uid for claim in self._evidence.listed)

    def _resolve(self) -> None:
        pods = self._pods()
        listed = with_uids(self._evidence.listed, pods)
        self._evidence = Evidence(listed, self._evidence.checkpointed)
        known = explained(self._evidence, pods)
        for device in [device for device in self._allocated if device in known]:
            del self._allocated[device]
        remembered = {device: h for device, h in self._told.items() if h.pod}
        told = resolve(self._evidence, remembered, self._allocated.keys(), pods)
        self._leftovers.suspect(departed(self._told, told, pods, self._last_pods))
        self._told, self._last_pods = told, pods
        holders = {**self._leftovers.holders(), **told}
        if holders != self._holders:
            self._holders.clear()
            self._holders.update(holders)
            self.changed.beat()

    async def refresh(self) -> None:
        """Reads all evidence and judges it; raises KubeletUnavailable.

        Whoever asks while it is being read shares the next reading with all who do, and so its
        outcome: the kubelet answers so many calls and no more, and dozens of containers may start
        at once.
        """
        asked = self._begun
        async with self._reading:
            if self._ended <= asked:
                await self._read()
            if self._failure:
                raise KubeletUnavailable(self._failure)

    async def _read(self) -> None:
        self._begun = number = self._begun + 1
        failure = ""
        try:
            await self._refresh()
        except KubeletUnavailable as error:
            failure = str(error)
        self._ended, self._failure = number, failure

    async def _refresh(self) -> None:
        started, before = monotonic(), self._pods()
        # A pod that ends while this is read is told by the name that it had before.
        listed = with_uids(await self._pod_resources.list(), before)
        checkpoint = await asyncio.to_thread(read_checkpoint, self._checkpoint)
        self._evidence = Evidence(listed, checkpoint.claims)
        self.foreign = frozenset(claim.uid for claim in checkpoint.foreign)
        self._resolve()
        self._forget(started)
        self.known.beat()

    def _forget(self, now: float) -> None:
        old = [
            device
            for device, at in self._allocated.items()
            if now - at > FORGOTTEN_SECONDS and not self._may_be_somebodys(device)
        ]
        for device in old:
            log.warning(
                "an Allocate was never followed by a container", extra={"slice": str(device)}
            )
            del self._allocated[device]
        if old:
            self._resolve()

    def _may_be_somebodys(self, device: DeviceId) -> bool:
        """Whether a pod lives here whose slice of that size nobody shows.

        Of an init container only the checkpoint tells, and the kubelet writes it out of order: an
        older one may replace a newer until the next is written (writeCheckpoint, unlocked).
        """
        return any(
            pod.admitted and not pod.ended and pod.needs_any((device.size,)) and not self.shows(pod)
            for pod in self._pods().by_uid.values()
        )

    async def vacated(self, device: DeviceId) -> None:
        """Returns once nothing is left of whoever had the slice before; the caller's deadline."""
        try:
            await self.refresh()  # the kubelet has told by now for whom it asked
        except KubeletUnavailable as error:
            log.info("an earlier holder may be overlooked", extra={"error": str(error)})
        await self._leftovers.until_free(device)

    def is_left_over(self, device: DeviceId) -> bool:
        """Whether processes of a pod that is gone may still use the slice."""
        return device in self._leftovers.holders()

    async def run(self) -> None:
        """Keeps the record true until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_kubelet(), name="holders")
            tasks.create_task(self._leftovers.run(lambda: self._pods().live_uids), name="leftovers")

    async def _follow_kubelet(self) -> NoReturn:
        backoff = Backoff(first=_FIRST_LOOK, longest=_LONGEST_LOOK)
        while True:
            seen = self._stale.count
            try:
                await self.refresh()
            except KubeletUnavailable as error:
                log.info("who holds which slice is not known for now", extra={"error": str(error)})
                await self._stale.within(seen, backoff.longest)
                continue
            if not self._allocated and not self._has_strangers():
                await self._stale.after(seen)
                backoff.reset()
            elif await self._stale.within(seen, backoff.delay()):
                backoff.reset()
