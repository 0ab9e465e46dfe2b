"""The GPUs of this machine as the driver shows them: the real `Gpus`.

Xids are waited for, everything else is looked at every ten seconds. Each has a thread of its own,
since a driver that hangs in one does not answer there any more.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Final, NoReturn

from mpslice.gpus import GpuUuid
from nodeagent.errors import NoGpus, NvmlError
from nodeagent.gpus.health import (
    NVIDIAS_LIST,
    RECOVERY_CHANGED,
    IgnoredXids,
    Look,
    SeenXid,
    judge,
    still_ailing,
)
from nodeagent.gpus.nvml import Nvml, Xid
from nodeagent.gpus.processes import pod_uid
from nodeagent.hardware import Gpu, GpuProcess, GpusChanged
from nodeagent.offloop import OffLoop
from nodeagent.pulse import Pulse

LOOK_SECONDS: Final = 10.0
XID_WAIT: Final = 10.0

_INIT: Final = 60.0  # seconds; without persistence mode the driver initialises every GPU in it
_CALL: Final = 10.0

log = logging.getLogger(__name__)


class NvmlGpus:
    """`start` makes one; it raises an NvmlError when this machine has no GPU that answers."""

    def __init__(self, nvml: Nvml, calls: OffLoop, ignored: IgnoredXids) -> None:
        self._nvml = nvml
        self._calls = calls
        self._waits = OffLoop("nvml-xids")
        self._ignored = ignored
        self._last = Look()
        self._gpus: tuple[Gpu, ...] = ()
        self._xids: dict[GpuUuid, SeenXid] = {}
        self._look_now = Pulse()
        self._returned = Pulse()  # a GPU answers anew, and has to be registered

    @classmethod
    async def start(cls, ignored: IgnoredXids = NVIDIAS_LIST) -> "NvmlGpus":
        calls = OffLoop("nvml")
        nvml = await calls.call(_INIT, Nvml)
        gpus = cls(nvml, calls, ignored)
        look = await calls.call(_INIT, gpus._look)
        for index, error in look.silent.items():
            log.error("a GPU does not answer", extra={"index": index, "error": str(error)})
        gpus._last, gpus._gpus = look, judge((), look, {}, monotonic())
        if not gpus._gpus:
            raise NoGpus("the driver is loaded and shows no GPU that answers; see nvidia-smi")
        return gpus

    def close(self) -> None:
        """Ends the threads when they are back from the driver; the process's end does the rest."""
        self._calls.close()
        self._waits.close()

    @property
    def tells_memory(self) -> bool:
        return True

    def read(self) -> Sequence[Gpu]:
        return self._gpus

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        return await self._calls.call(_CALL, self._processes, gpu)

    def _processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        memory = self._nvml.memory_by_process(gpu)
        return [GpuProcess(pid, pod_uid(pid), mib) for pid, mib in memory.items()]

    async def follow(self, on_change: GpusChanged) -> NoReturn:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_xids(on_change), name="xids")
            while True:
                seen = self._look_now.count
                await self._look_again(on_change)
                await self._look_now.within(seen, LOOK_SECONDS)

    # Looks.

    def _look(self) -> Look:
        found = self._nvml.enumerate()
        return Look(
            gpus=found.gpus,
            silent={silent.index: silent.error for silent in found.silent},
            recovery={gpu.uuid: self._needs_recovery(gpu.uuid) for gpu in found.gpus},
        )

    def _needs_recovery(self, uuid: GpuUuid) -> bool | None:
        try:
            return self._nvml.needs_recovery(uuid)
        except NvmlError:
            return None

    async def _look_again(self, on_change: GpusChanged) -> None:
        try:
            self._last = await self._calls.call(_CALL, self._look)
        except NvmlError as error:
            self._last = Look(failure=error)
        self._judge(on_change)

    def _judge(self, on_change: GpusChanged) -> None:
        gpus = judge(self._gpus, self._last, self._xids, monotonic())
        self._xids = still_ailing(gpus, self._xids)
        if gpus == self._gpus:
            return
        well = {gpu.uuid for gpu in self._gpus if gpu.healthy}
        self._gpus = gpus
        if any(gpu.healthy and gpu.uuid not in well for gpu in gpus):
            self._returned.beat()
        on_change(gpus)

    # Xids.

    async def _follow_xids(self, on_change: GpusChanged) -> NoReturn:
        while True:
            try:
                await self._watch_xids(on_change)
            except NvmlError as error:
                log.warning("no Xid is seen for now", extra={"error": str(error)})
                self._look_now.beat()
                await asyncio.sleep(LOOK_SECONDS)

    async def _watch_xids(self, on_change: GpusChanged) -> None:
        """Until a GPU has come, or come back."""
        returned = self._returned.count
        uuids = [gpu.uuid for gpu in self._gpus]
        watch = await self._waits.call(_CALL, self._nvml.watch_xids, uuids)
        for uuid in watch.unwatched:
            log.warning("the GPU reports no Xids", extra={"gpu": uuid})
        try:
            while self._returned.count == returned:
                xid = await self._waits.call(XID_WAIT + _CALL, watch.next, XID_WAIT)
                if xid is not None:
                    self._had(xid, on_change)
        finally:
            self._waits.post(watch.close)

    def _had(self, xid: Xid, on_change: GpusChanged) -> None:
        ignored = xid.number in self._ignored
        log.log(
            logging.INFO if ignored else logging.ERROR,
            "a GPU reports an Xid",
            extra={"gpu": xid.gpu, "xid": xid.number, "ignored": ignored},
        )
        if xid.number == RECOVERY_CHANGED or not ignored:
            self._look_now.beat()
        if xid.gpu is not None and not ignored:
            self._xids[xid.gpu] = SeenXid(xid.number, monotonic())
            self._judge(on_change)
