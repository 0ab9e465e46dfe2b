"""What the device plugin answers, without gRPC: lists, preferences, allocations, readiness.

`Allocate` knows no pod and no container, so everything follows from the ids, and answering the same
id twice answers the same.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from mpslice.allocation import GpuRoom, preferred
from mpslice.errors import InvalidDeviceId
from mpslice.gpus import DeviceId, GpuUuid, MemoryUnit, capacity_gb
from mpslice.slices import SliceSize
from nodeagent.cdi import CdiSpecs, device_name
from nodeagent.edits import ContainerEdits
from nodeagent.errors import AgentError, KubeletUnavailable, UnknownSlice
from nodeagent.hardware import Gpu
from nodeagent.kubelet.witness import Witness
from nodeagent.pulse import Pulse
from nodeagent.seams import Enforcer
from nodeagent.slices.leftovers import until_vacated
from nodeagent.slices.spread import by_suitability, obstacle, refusal, until_known
from nodeagent.slices.table import Listed, SliceTable

READY_SECONDS: Final = 25.0
"""How long a container waits for its slice: the kubelet gives PreStartContainer 30 s."""

_UNKNOWN: Final = "whether its GPU has another pod of its spread group is not known after"

log = logging.getLogger(__name__)


class SliceService:
    """Answers for all sizes; an AgentError is what the pod's status will say.

    `cdi` is None where containers get their slices by the device plugin's answer alone.
    """

    def __init__(
        self,
        table: SliceTable,
        witness: Witness,
        enforcer: Enforcer,
        cdi: CdiSpecs | None,
        unit: MemoryUnit,
    ) -> None:
        self._table = table
        self._witness = witness
        self._enforcer = enforcer
        self._cdi = cdi
        self._unit = unit
        self._gone: set[DeviceId] = set()
        self._foreseen: frozenset[DeviceId] = frozenset()
        self._specifying = asyncio.Lock()  # an older state must not be written after a newer one

    @property
    def changed(self) -> Pulse:
        """Beats when a list may have changed."""
        return self._table.changed

    def devices(self, size: SliceSize) -> tuple[Listed, ...]:
        return self._table.devices(size)

    def prefer(
        self, available: Sequence[str], must_include: Sequence[str], count: int
    ) -> tuple[str, ...]:
        """What `mpslice.allocation` prefers; it never fails, because an error fails the pod.

        Slices beside other pods of a spread group come late. Those that are about to be withdrawn,
        or that processes of a pod that is gone may still use, come last.
        """
        try:
            ids = [DeviceId.parse(text) for text in available]
            free = [device for device in ids if self._is_free(device)]
            chosen = tuple([DeviceId.parse(text) for text in must_include])
            rooms = self._rooms()
            for some in (*by_suitability(self._table, free), free, ids):
                if len(chosen) < count:
                    chosen = preferred(some, count, rooms, must_include=chosen)
        except InvalidDeviceId as error:
            log.warning("the kubelet offers an id that is not ours", extra={"error": str(error)})
            return tuple(dict.fromkeys((*must_include, *available)))[:count]
        return tuple(str(device) for device in chosen)

    def _is_free(self, device: DeviceId) -> bool:
        return not (self._table.get(device).leftovers or self._table.is_closing(device))

    def _rooms(self) -> dict[GpuUuid, GpuRoom]:
        gpus = self._table.gpus.values()
        return {gpu.uuid: GpuRoom(gpu.index, self._free_gb(gpu)) for gpu in gpus}

    def _free_gb(self, gpu: Gpu) -> int:
        used = sum(device.size for device in self._table.holders if device.gpu == gpu.uuid)
        return capacity_gb(gpu.memory_mib, self._unit) - used

    def allocate(self, texts: Sequence[str]) -> ContainerEdits:
        """The edits for one container, which holds the slice from now on.

        Raises UnknownSlice for an id that does not stand (any more), and AgentError for several,
        as a client speaks to one MPS server and obeys one limit, and for one that suits no pod that
        may be meant.
        """
        ids = [self._standing(text) for text in texts]
        if len(ids) != 1:
            raise AgentError(
                f"a container can have one slice and asks for {len(ids)}; "
                "request one larger slice instead"
            )
        if why := refusal(self._table, ids[0]):
            raise AgentError(why)
        edits = self._enforcer.edits(self._table.gpus[ids[0].gpu], ids[0])
        self._table.allocate(ids)
        self._witness.stale()
        if self._cdi is not None and self._cdi.names(ids[0]):
            return replace(edits, cdi_devices=(*edits.cdi_devices, device_name(ids[0])))
        return edits

    def _standing(self, text: str) -> DeviceId:
        try:
            device = DeviceId.parse(text)
        except InvalidDeviceId as error:
            raise UnknownSlice(str(error)) from error
        if device not in self._table or device.gpu not in self._table.gpus:
            raise UnknownSlice(f"slice {device} was withdrawn; the pod has to be created anew")
        return device

    async def specify(self, ids: Iterable[DeviceId]) -> None:
        """Lets the container runtime know these, and nothing more of those that were forgotten.

        Raises CdiUnwritable.
        """
        async with self._specifying:
            await self._specify(ids)

    async def complete(self, new: Collection[DeviceId] = ()) -> None:
        """Lets it know these and all that stand; returns at once where it does.

        Raises CdiUnwritable.
        """
        if self.unspecified(new):
            async with self._specifying:
                if unknown := self.unspecified(new):  # an earlier call may have been about them
                    await self._specify(unknown)

    async def _specify(self, ids: Iterable[DeviceId]) -> None:
        gpus = self._table.gpus
        shown = [id_ for id_ in ids if id_.gpu in gpus]
        gone = self._gone.difference(self._table.slices, self._foreseen, shown)
        self._gone.clear()
        if self._cdi is not None and (shown or gone):
            specs = {id_: self._enforcer.edits(gpus[id_.gpu], id_) for id_ in shown}
            await asyncio.to_thread(self._cdi.put, specs, gone)

    def forget(self, ids: Iterable[DeviceId]) -> None:
        """These do not stand any more."""
        self._gone.update(ids)

    @property
    def forgotten(self) -> bool:
        """Whether the container runtime may still know some that do not stand any more."""
        return bool(self._gone)

    def foresee(self, coming: Iterable[DeviceId]) -> None:
        """These are about to stand, and none of those that were foreseen before."""
        before, self._foreseen = self._foreseen, frozenset(coming)
        self._gone.update(before.difference(self._foreseen, self._table.slices))

    def unspecified(self, new: Iterable[DeviceId] = ()) -> list[DeviceId]:
        """Those of these and of the slices that stand that the container runtime does not know: new
        ones, those of an attempt that has failed, and those whose GPU was lost for a while."""
        cdi, gpus = self._cdi, self._table.gpus
        if cdi is None:
            return []
        ids = (*new, *self._table.slices)
        return [id_ for id_ in ids if id_.gpu in gpus and not cdi.names(id_)]

    async def prepare(self, texts: Sequence[str]) -> None:
        """Before every start of a container: its slice is enforced, what the container runtime is
        to read is in its place, no other pod's process is left in the slice, and no other pod of a
        spread group has its GPU.

        Raises AgentError when it is not so within READY_SECONDS.
        """
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        for device in map(DeviceId.parse, texts):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._enforcer.ready(device)
            except TimeoutError as error:
                raise AgentError(self._not_ready(device.gpu)) from error
            if self._cdi is not None and self._cdi.names(device):
                await self.specify([device])
            try:
                async with asyncio.timeout_at(deadline):
                    await self._vacated(device)
            except TimeoutError as error:
                raise AgentError(self._not_vacated(device)) from error
            try:
                async with asyncio.timeout_at(deadline):
                    await until_known(self._table, device)
            except TimeoutError as error:
                raise AgentError(f"{_UNKNOWN} {READY_SECONDS:.0f} s: slice {device}") from error
            if why := obstacle(self._table, device):
                raise AgentError(why)

    async def _vacated(self, device: DeviceId) -> None:
        try:
            await self._witness.look()  # the kubelet has told by now for which pod it asked
        except KubeletUnavailable as error:
            log.info("an earlier holder may be overlooked", extra={"error": str(error)})
        await until_vacated(self._table, device)

    def _not_ready(self, gpu: GpuUuid) -> str:
        health = self._enforcer.health().get(gpu)
        why = f": {health.detail}" if health is not None and health.detail else ""
        return f"the MPS daemon of {gpu} is not ready after {READY_SECONDS:.0f} s{why}"

    def _not_vacated(self, device: DeviceId) -> str:
        after = f"after {READY_SECONDS:.0f} s"
        if self._table.get(device).leftovers:
            return f"slice {device} is still used by processes of a pod that is gone {after}"
        return f"whether slice {device} is still used by a pod that is gone is not known {after}"
