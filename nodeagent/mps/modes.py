"""Compute modes through NVML: the real `ComputeModes`.

Each GPU has a thread for its calls, so that a driver that hangs in one stops neither the others nor
the event loop nor our end.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from mpslice.gpus import GpuUuid
from nodeagent.errors import GpuLost, NvmlError
from nodeagent.gpus.nvml import ComputeMode, Nvml
from nodeagent.hardware import ComputeModes
from nodeagent.mps.errors import ComputeModeNotSet
from nodeagent.offloop import OffLoop

_INIT: Final = 60.0  # seconds; without persistence mode the driver initialises every GPU in it
_CALL: Final = 10.0


class NvmlComputeModes:
    """See `ComputeModes`."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._calls: dict[GpuUuid, OffLoop] = {}

    def close(self) -> None:
        """Ends the threads when they are back from the driver."""
        for calls in self._calls.values():
            calls.close()

    def _of(self, gpu: GpuUuid) -> OffLoop:
        return self._calls.setdefault(gpu, OffLoop(f"nvml-{gpu}"))

    async def is_exclusive(self, gpu: GpuUuid) -> bool | None:
        try:
            mode = await self._of(gpu).call(_CALL, self._nvml.compute_mode, gpu)
        except GpuLost:
            return None
        return mode is ComputeMode.EXCLUSIVE_PROCESS

    async def set_exclusive(self, gpu: GpuUuid, *, exclusive: bool) -> None:
        mode = ComputeMode.EXCLUSIVE_PROCESS if exclusive else ComputeMode.DEFAULT
        try:
            await self._of(gpu).call(_CALL, self._nvml.set_compute_mode, gpu, mode)
        except NvmlError as error:
            raise ComputeModeNotSet(
                f"the compute mode of {gpu} cannot be set to {mode.name}: {error}; "
                "or leave it alone with --compute-mode=keep"
            ) from error


@asynccontextmanager
async def open_compute_modes() -> AsyncIterator[ComputeModes]:
    """The driver, as long as it is needed; raises an NvmlError when there is none."""
    calls = OffLoop("nvml")
    nvml = await calls.call(_INIT, Nvml)
    modes = NvmlComputeModes(nvml)
    try:
        yield modes
    finally:
        modes.close()
        calls.post(nvml.close)
        calls.close()
