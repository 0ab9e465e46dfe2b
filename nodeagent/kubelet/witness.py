"""Reads from the kubelet who holds which slice: when it is worth it, and never twice at once.

That is when the kubelet has written its checkpoint, and at growing intervals while an Allocate is
unexplained.
"""

import asyncio
import logging
from pathlib import Path
from time import monotonic
from typing import Final, NoReturn, Protocol

from mpslice.kube.reflector import Backoff
from nodeagent.errors import KubeletUnavailable
from nodeagent.kubelet.checkpoint import read_checkpoint
from nodeagent.pulse import Pulse
from nodeagent.slices.evidence import Claim, Reading
from nodeagent.slices.table import SliceTable

FORGOTTEN_SECONDS: Final = 30.0
"""An Allocate that no evidence explains for so long was for a pod that failed its admission."""

_FIRST_LOOK: Final = 0.005
_LONGEST_LOOK: Final = 10.0

log = logging.getLogger(__name__)


class Lister(Protocol):
    """What is needed of PodResources."""

    async def list(self) -> tuple[Claim, ...]: ...


class Witness:
    """Puts readings into the table; `known` beats with each."""

    def __init__(self, table: SliceTable, pod_resources: Lister, checkpoint: Path) -> None:
        self.known = Pulse()
        self._table = table
        self._pod_resources = pod_resources
        self._checkpoint = checkpoint
        self._stale = Pulse()
        self._reading = asyncio.Lock()  # an older reading must not replace a newer one
        self._begun = 0  # readings
        self._ended = 0  # the last of them that ended
        self._failure = ""  # and why it told nothing

    def stale(self) -> None:
        """The kubelet may have something new to tell, or it is another kubelet."""
        self._stale.beat()

    def checkpoint_written(self) -> None:
        """Without an open question it is only the echo of a list of ours, or of another plugin."""
        if self._table.unexplained:
            self._stale.beat()

    def pods_changed(self) -> None:
        """A pod came, went or ended: the evidence is judged again, and read if that is not all."""
        self._table.judge()
        if self._table.unexplained:
            self._stale.beat()

    async def look(self) -> None:
        """Reads all evidence into the table; raises KubeletUnavailable.

        All who ask while it is being read share the next reading, and so its outcome: the kubelet
        answers a limited number of calls, and dozens of containers may start at once.
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
            await self._read_now()
        except KubeletUnavailable as error:
            failure = str(error)
        self._ended, self._failure = number, failure

    async def _read_now(self) -> None:
        at, pods, open_before = monotonic(), self._table.pods(), self._table.unexplained
        listed = await self._pod_resources.list()
        found = await asyncio.to_thread(read_checkpoint, self._checkpoint)
        foreign = frozenset(claim.uid for claim in found.foreign)
        reading = Reading(at, listed, found.claims, found.complete, foreign)
        # A pod that ends while this is read is told by the name that it had before.
        self._table.read(reading.with_uids(pods))
        for id_ in self._table.forget(at - FORGOTTEN_SECONDS):
            log.warning("an Allocate was never followed by a container", extra={"slice": str(id_)})
        if self._table.unexplained and not open_before:
            self._stale.beat()  # whoever asked, `run` looks on until it is explained
        self.known.beat()

    async def run(self) -> NoReturn:
        """Keeps the table true until cancelled."""
        backoff = Backoff(first=_FIRST_LOOK, longest=_LONGEST_LOOK)
        while True:
            seen = self._stale.count
            try:
                await self.look()
            except KubeletUnavailable as error:
                log.info("holders of slices are not known for now", extra={"error": str(error)})
                await self._stale.within(seen, backoff.longest)
                continue
            if not self._table.unexplained:
                await self._stale.after(seen)
                backoff.reset()
            elif await self._stale.within(seen, backoff.delay()):
                backoff.reset()
