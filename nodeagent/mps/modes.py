"""Compute modes through NVML: the real `ComputeModes`.

Each GPU has a thread for its calls, so that a driver that hangs in one stops neither the others nor
the event loop nor our end.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from mpslice.gpus import GpuUuid
from nodeagent.errors import DriverClosed, DriverNotLoaded, GpuLost, NvmlError
from nodeagent.gpus.nvml import ComputeMode, Nvml
from nodeagent.hardware import ComputeModes
from nodeagent.mps.errors import ComputeModeNotSet
from nodeagent.offloop import OffLoop

T = TypeVar("T")

_INIT: Final = 60.0  # seconds; without persistence mode the driver initialises every GPU in it
_CALL: Final = 10.0


class NvmlComputeModes:
    """See `ComputeModes`."""

    def __init__(self, nvml: Nvml, may_use: Callable[[], None] = lambda: None) -> None:
        self._nvml = nvml
        self._may_use = may_use
        self._open = True
        self._calls: dict[GpuUuid, OffLoop] = {}

    def close(self) -> None:
        """Ends the threads when they are back from the driver."""
        for calls in self._calls.values():
            calls.close()

    def _of(self, gpu: GpuUuid) -> OffLoop:
        return self._calls.setdefault(gpu, OffLoop(f"nvml-{gpu}"))

    async def _ask(self, gpu: GpuUuid, function: Callable[..., T], *arguments: object) -> T:
        """Lets go of a driver that is to be left alone or does not answer, to begin again later."""
        calls = self._of(gpu)
        try:
            self._may_use()
            if not self._open:
                await calls.call(_INIT, self._nvml.reopen)
                self._open = True
            return await calls.call(_CALL, function, *arguments)
        except (DriverClosed, DriverNotLoaded):
            if self._open:
                self._open = False
                calls.post(self._nvml.close)
            raise

    async def is_exclusive(self, gpu: GpuUuid) -> bool | None:
        try:
            mode = await self._ask(gpu, self._nvml.compute_mode, gpu)
        except GpuLost:
            return None
        return mode is ComputeMode.EXCLUSIVE_PROCESS

    async def set_exclusive(self, gpu: GpuUuid, *, exclusive: bool) -> None:
        mode = ComputeMode.EXCLUSIVE_PROCESS if exclusive else ComputeMode.DEFAULT
        try:
            await self._ask(gpu, self._nvml.set_compute_mode, gpu, mode)
        except NvmlError as error:
            raise ComputeModeNotSet(
                f"the compute mode of {gpu} cannot be set to {mode.name}: {error}; "
                "a vGPU has none: set the chart's mps.computeMode to keep (--compute-mode=keep)"
            ) from error


@asynccontextmanager
async def open_compute_modes(
    may_use: Callable[[], None] = lambda: None,
) -> AsyncIterator[ComputeModes]:
    """The driver, as long as it is needed; raises an NvmlError when there is none.

    `may_use` raises DriverClosed while it is to be left alone.
    """
    calls = OffLoop("nvml")
    try:
        may_use()
        nvml = await calls.call(_INIT, Nvml)
    except NvmlError:
        calls.close()
        raise
    modes = NvmlComputeModes(nvml, may_use)
    try:
        yield modes
    finally:
        modes.close()
        calls.post(nvml.close)
        calls.close()
