"""The kubelet's device plugin API as the hand-off of slices."""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Final

from mpslice.gpus import DeviceId
from nodeagent.cdi import CdiSpecs
from nodeagent.errors import CdiUnwritable, KubeletUnavailable
from nodeagent.kubelet.knowledge import KNOWN_SECONDS, KubeletKnowledge
from nodeagent.kubelet.link import KubeletLink, remove_left_sockets
from nodeagent.kubelet.podresources import PodResources
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet.witness import Witness
from nodeagent.pulse import Pulse
from nodeagent.seams import Enforcer
from nodeagent.settings import Settings
from nodeagent.slices.leftovers import GpuUsers, follow_leftovers
from nodeagent.slices.pods import PodFacts
from nodeagent.slices.table import SliceTable

_EARLY_SECONDS: Final = 1.0  # what the first registrations may delay the API server's turn

log = logging.getLogger(__name__)


class DevicePlugin:
    """See `Handoff`. It watches the kubelet's directory from its making on; `close` ends that."""

    def __init__(
        self, settings: Settings, table: SliceTable, enforcer: Enforcer, users: GpuUsers
    ) -> None:
        self.pod_resources = PodResources(settings.pod_resources_socket)
        self.witness = Witness(table, self.pod_resources, settings.checkpoint)
        self._table = table
        self._users = users
        self._directory = settings.device_plugin_dir
        self._cdi = CdiSpecs(settings.cdi_dir) if settings.cdi else None
        self._service = SliceService(table, self.witness, enforcer, self._cdi, settings.memory_unit)
        self.link = KubeletLink(settings.kubelet_socket, self._service)
        self._knowledge = KubeletKnowledge(self.pod_resources)
        self._confirmed = (-1, -1)
        self._tasks: asyncio.TaskGroup  # from `begin` on

    @property
    def changed(self) -> Pulse:
        return self.link.changed

    async def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Serves what the table has already; pods that the kubelet admits before that are lost."""
        self._tasks = tasks
        await asyncio.to_thread(remove_left_sockets, self._directory)
        tasks.create_task(self.link.follow(self.witness.checkpoint_written), name="kubelet")
        self.link.serve(self._table.sizes, tasks)
        try:
            await self.link.until_live(self._table.sizes, _EARLY_SECONDS)
        except KubeletUnavailable as error:
            log.info("the kubelet is away", extra={"error": str(error)})

    async def adopt(self, ids: Sequence[DeviceId]) -> None:
        """Puts slices of an earlier agent into the table; they are served whether or not their
        specifications can be written."""
        try:
            await self._service.specify(ids)
        except CdiUnwritable as error:
            log.warning("slices are served without CDI for now", extra={"error": str(error)})
        self._table.adopt(ids)

    def serve(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self.witness.run(), name="holders")
        tasks.create_task(follow_leftovers(self._table, self._users), name="leftovers")
        self.link.reconnected.listen(self.witness.stale)

    async def tidy(self) -> None:
        """Takes away the specifications of slices that do not stand, left by earlier agents."""
        if self._cdi is not None:
            await asyncio.to_thread(self._cdi.clean, self._table.slices)

    def expect(self, coming: Collection[DeviceId]) -> None:
        self.link.serve(frozenset(id_.size for id_ in coming), self._tasks)
        self._service.foresee(coming)
        if self._service.unspecified(coming):
            self._tasks.create_task(self._specify_early(coming), name="specifications")

    async def _specify_early(self, coming: Collection[DeviceId]) -> None:
        with suppress(CdiUnwritable):  # `offer` tries again, and raises it
            await self._service.complete(coming)

    async def offer(self, new: Sequence[DeviceId] = (), *, sure: bool = False) -> None:
        await self._service.complete(new)
        self._table.carve(new)
        sizes = self._table.sizes
        self.link.serve(sizes, self._tasks)
        await self.link.until_live(sizes, KNOWN_SECONDS)
        state = (self._table.changed.count, self.link.changed.count)
        if sure or state != self._confirmed:
            await self.link.until_told(sizes)
            known = await self._knowledge.until_known(self._offered)
            self._table.confirm(known)
            self._confirmed = state
        if self._service.forgotten:  # nothing waits for that
            self._tasks.create_task(self._service.specify(()), name="forgotten specifications")

    def _offered(self) -> frozenset[DeviceId]:
        return frozenset(filter(self._table.is_offered, self._table.slices))

    async def hide(self, ids: frozenset[DeviceId]) -> None:
        self._table.retire(ids)
        await self.link.until_told({id_.size for id_ in ids})
        await self._knowledge.until_hidden(
            lambda: frozenset(id_ for id_ in ids if not self._table.is_offered(id_))
        )

    def forget(self, ids: Iterable[DeviceId]) -> None:
        self._service.forget(ids)

    async def look(self) -> None:
        await self.witness.look()

    def shows(self, pod: PodFacts) -> bool:
        return self._table.reading.shows(pod)

    async def leave(self) -> None:
        """Gives up the sizes without slices: another plugin is to have their names to itself."""
        self._table.forget_empty_sizes()
        await self.link.leave(but=self._table.sizes)

    async def end(self) -> None:
        """Ends every endpoint; returns once the kubelet offers none of the slices."""
        await self.link.stop()
        ids = frozenset(self._table.slices)
        await self._knowledge.until_hidden(lambda: ids)

    async def close(self) -> None:
        """Lets go of the directory and the kubelet."""
        await self.link.close()
        await self.pod_resources.close()
