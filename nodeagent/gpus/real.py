"""The GPUs of this machine as the driver shows them: the real `Gpus`.

Xids are waited for, everything else is looked at every ten seconds. Those have a thread, and each
GPU has one, since a driver that hangs in one does not answer there any more.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, NoReturn

from mpslice.gpus import GpuUuid
from mpslice.kube.reflector import Backoff
from nodeagent.errors import (
    DriverClosed,
    DriverHangs,
    DriverReplaced,
    DriverTooOld,
    NoGpus,
    NotSupported,
    NvmlError,
)
from nodeagent.gpus.health import (
    NVIDIAS_LIST,
    RECOVERY_CHANGED,
    IgnoredXids,
    Look,
    SeenXid,
    judge,
    still_ailing,
)
from nodeagent.gpus.nvml import Nvml, Xid, XidWatch
from nodeagent.gpus.processes import pod_uid
from nodeagent.hardware import Gpu, GpuProcess, GpusChanged
from nodeagent.mps.processes import is_server
from nodeagent.offloop import OffLoop
from nodeagent.pulse import Pulse

LOOK_SECONDS: Final = 10.0
_XIDS_AGAIN: Final = 0.1  # seconds
XID_WAIT: Final = 10.0

_INIT: Final = 60.0  # seconds; without persistence mode the driver initialises every GPU in it
_CALL: Final = 10.0

log = logging.getLogger(__name__)


class NvmlGpus:
    """`start` makes one; it raises an NvmlError when this machine has no GPU that answers."""

    def __init__(
        self, nvml: Nvml, calls: OffLoop, ignored: IgnoredXids, may_use: Callable[[], None]
    ) -> None:
        self._nvml = nvml
        self._calls = calls
        self._by_index: dict[int, OffLoop] = {}
        self._waits = OffLoop("nvml-xids")
        self._watch: XidWatch | None = None  # of that thread alone
        self._ignored = ignored
        self._may_use = may_use
        self._open = True
        self._last = Look()
        self._gpus: tuple[Gpu, ...] = ()
        self._xids: dict[GpuUuid, SeenXid] = {}
        self._look_now = Pulse()
        self._returned = Pulse()  # a GPU answers anew, and has to be registered

    @classmethod
    async def start(
        cls, ignored: IgnoredXids = NVIDIAS_LIST, may_use: Callable[[], None] = lambda: None
    ) -> "NvmlGpus":
        """`may_use` raises DriverClosed while the driver is to be left alone."""
        calls = OffLoop("nvml")
        try:
            may_use()
            nvml = await calls.call(_INIT, Nvml)
        except NvmlError:
            calls.close()
            raise
        gpus = cls(nvml, calls, ignored, may_use)
        try:
            await gpus._begin()
        except NvmlError:
            gpus.close()
            raise
        return gpus

    async def _begin(self) -> None:
        look = await self._look(_INIT)
        for index, error in look.silent.items():
            log.error("a GPU does not answer", extra={"index": index, "error": str(error)})
        self._last, self._gpus = look, judge((), look, {}, monotonic())
        if not self._gpus:
            raise no_gpus(look.silent)

    def close(self) -> None:
        """Closes NVML, and ends the threads when they are back from the driver."""
        if self._open:
            self._open = False
            self._calls.post(self._nvml.close)
        for calls in (self._calls, self._waits, *self._by_index.values()):
            calls.close()

    @property
    def tells_memory(self) -> bool:
        return True

    def read(self) -> Sequence[Gpu]:
        return self._gpus

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        self._may_use()
        index = next((known.index for known in self._gpus if known.uuid == gpu), -1)
        return await self._of(index).call(_CALL, self._processes, gpu)

    def _processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        """All but the MPS server, which runs in a pod that holds no slice, and for all that do."""
        memory = self._nvml.memory_by_process(gpu)
        return [
            GpuProcess(pid, pod_uid(pid), mib) for pid, mib in memory.items() if not is_server(pid)
        ]

    async def follow(self, on_change: GpusChanged) -> NoReturn:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_xids(on_change), name="xids")
            while True:
                seen = self._look_now.count
                await self._look_again(on_change)
                await self._look_now.within(seen, LOOK_SECONDS)

    # Looks.

    def _of(self, index: int) -> OffLoop:
        return self._by_index.setdefault(index, OffLoop(f"nvml-{index}"))

    async def _look(self, seconds: float) -> Look:
        """At all GPUs at once; one that has not answered by then is silent, not the others."""
        count = await self._calls.call(seconds, self._nvml.count)
        answers = await asyncio.gather(*(self._ask(index, seconds) for index in range(count)))
        gpus = [answer for answer in answers if not isinstance(answer, NvmlError)]
        return Look(
            gpus=tuple(gpu for gpu, _ in gpus),
            silent={i: error for i, error in enumerate(answers) if isinstance(error, NvmlError)},
            recovery={gpu.uuid: needs_recovery for gpu, needs_recovery in gpus},
        )

    async def _ask(self, index: int, seconds: float) -> tuple[Gpu, bool | None] | NvmlError:
        try:
            return await self._of(index).call(seconds, self._examine, index)
        except DriverTooOld:
            raise  # it lacks the same for all
        except NvmlError as error:
            return error

    def _examine(self, index: int) -> tuple[Gpu, bool | None]:
        gpu = self._nvml.gpu(index)
        try:
            return gpu, self._nvml.needs_recovery(gpu.uuid)
        except NvmlError:
            return gpu, None

    async def _look_again(self, on_change: GpusChanged) -> None:
        try:
            self._may_use()
            if not self._open:
                await self._calls.call(_INIT, self._nvml.reopen)
                self._open = True
            self._last = await self._look(_CALL)
        except NvmlError as error:
            self._last = Look(failure=error)
            if self._open and not isinstance(error, DriverHangs):
                await self._let_go()
            if isinstance(error, DriverReplaced):
                raise  # only another process can load another library
        self._judge(on_change)

    async def _let_go(self) -> None:
        """Closes NVML, after the wait for Xids has ended: on request, or to begin again."""
        self._open = False
        self._returned.beat()
        with suppress(NvmlError):
            await self._waits.call(XID_WAIT + _CALL, self._end_watch)
            await self._calls.call(_CALL, self._nvml.close)

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
        # A GPU that is lost ends the wait for all (NVML_ERROR_GPU_IS_LOST): so at first at once.
        backoff = Backoff(first=_XIDS_AGAIN, longest=LOOK_SECONDS)
        while True:
            try:
                await self._watch_xids(on_change, backoff)
            except NvmlError as error:
                delay = backoff.delay()
                if not self._open:
                    await self._look_now.within(self._look_now.count, LOOK_SECONDS)
                    continue
                log.warning("no Xid is seen for now", extra={"error": str(error), "seconds": delay})
                self._look_now.beat()
                await asyncio.sleep(delay)

    async def _watch_xids(self, on_change: GpusChanged, backoff: Backoff) -> None:
        """Until a GPU has come, or come back."""
        if not self._open:
            raise DriverClosed("NVML is closed")
        returned = self._returned.count
        uuids = [gpu.uuid for gpu in self._gpus]
        for uuid in await self._waits.call(_CALL, self._begin_watch, uuids):
            log.warning("the GPU reports no Xids", extra={"gpu": uuid})
        loop = asyncio.get_running_loop()

        def had(xid: Xid) -> None:
            loop.call_soon_threadsafe(self._had, xid, on_change)

        try:
            while self._returned.count == returned:
                await self._waits.call(XID_WAIT + _CALL, self._wait_for_xid, had)
                backoff.reset()
        finally:
            self._waits.post(self._end_watch)

    # On the thread of `_waits`, which may be late: what it has found by then is told all the same.

    def _begin_watch(self, uuids: Sequence[GpuUuid]) -> Sequence[GpuUuid]:
        self._end_watch()
        self._watch = self._nvml.watch_xids(uuids)
        return self._watch.unwatched

    def _wait_for_xid(self, had: Callable[[Xid], None]) -> None:
        xid = self._watch.next(XID_WAIT) if self._watch is not None else None
        if xid is not None:
            had(xid)

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

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


def no_gpus(silent: Mapping[int, NvmlError]) -> NoGpus:
    """Why there is nothing to slice: the driver counts no GPU, or each of them says why not."""
    if not silent:
        return NoGpus("the driver is loaded and shows no GPU; see nvidia-smi")
    causes = "; ".join(f"GPU {index}: {_cause(error)}" for index, error in silent.items())
    return NoGpus(f"the driver is loaded and shows no GPU that answers: {causes}")


def _cause(error: NvmlError) -> str:
    if isinstance(error, NotSupported) and "MemoryInfo" in str(error):
        return (
            "it does not tell how much memory it has, as GPUs that share the machine's memory "
            "(GB10) and some vGPUs do not; its memory cannot be sliced, so take the label off "
            "this node"
        )
    return str(error)
