"""NVML through pynvml: typed records and our own errors come out. The one module that knows pynvml.

pynvml's errors are unhashable and break when they are compared, so none of them leaves here. Every
call blocks; `offloop` keeps it away from the event loop.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import pynvml  # type: ignore[import-untyped]  # it has no types

from mpslice.gpus import MIB, GpuUuid
from nodeagent.errors import (
    DriverNotLoaded,
    DriverReplaced,
    DriverTooOld,
    GpuLost,
    GpuNeedsReset,
    NotSupported,
    NvmlError,
    NvmlMissing,
    NvmlNotPermitted,
    NvmlTimeout,
)
from nodeagent.hardware import ComputeCapability, Gpu

T = TypeVar("T")

PCI_DEVICES: Final = Path("/sys/bus/pci/devices")

_KINDS: Final[dict[int, tuple[type[NvmlError], str]]] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        NvmlMissing,
        "libnvidia-ml.so.1 cannot be loaded; set the chart's runtimeClassName or driverRoot",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        DriverNotLoaded,
        "the kernel module nvidia is not loaded; load it, or mend the driver's installation",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        DriverReplaced,
        "the kernel module and the library are of different driver versions; reboot the node",
    ),
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: (
        DriverTooOld,
        "this driver lacks it; install driver 510 or later",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        NvmlNotPermitted,
        "the driver refuses it; run this container as root and privileged",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (GpuLost, "the GPU has fallen off the bus; reboot the node"),
    pynvml.NVML_ERROR_NOT_FOUND: (GpuLost, "the driver knows no such GPU"),
    pynvml.NVML_ERROR_RESET_REQUIRED: (GpuNeedsReset, "the GPU has to be reset first"),
    pynvml.NVML_ERROR_TIMEOUT: (NvmlTimeout, "nothing in time"),
    pynvml.NVML_ERROR_NOT_SUPPORTED: (NotSupported, "the GPU or its driver does not support it"),
}


_RECOVERY_FIELDS: Final = (
    pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    pynvml.NVML_FI_DEV_RESET_STATUS,
    pynvml.NVML_FI_DEV_DRAIN_AND_RESET_STATUS,
)


class ComputeMode(IntEnum):
    """nvmlComputeMode_t: who may have contexts on a GPU."""

    DEFAULT = pynvml.NVML_COMPUTEMODE_DEFAULT
    EXCLUSIVE_THREAD = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD
    PROHIBITED = pynvml.NVML_COMPUTEMODE_PROHIBITED
    EXCLUSIVE_PROCESS = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS


@dataclass(frozen=True, slots=True)
class Xid:
    """A critical error of a GPU; None for the GPU when the driver cannot tell which."""

    gpu: GpuUuid | None
    number: int


class Nvml:
    """The driver, from `Nvml()` until `close`. Whatever it does raises an NvmlError or succeeds."""

    def __init__(self, pci_devices: Path = PCI_DEVICES) -> None:
        self._pci_devices = pci_devices
        _call(pynvml.nvmlInit)

    def __enter__(self) -> "Nvml":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        _call(pynvml.nvmlShutdown)

    def reopen(self) -> None:
        """Begins again with a driver that has gone and may have come back."""
        with suppress(NvmlError):
            self.close()
        _call(pynvml.nvmlInit)

    def driver_version(self) -> str:
        return str(_call(pynvml.nvmlSystemGetDriverVersion))

    def count(self) -> int:
        """How many GPUs the driver counts, those that do not answer as well."""
        return int(_call(pynvml.nvmlDeviceGetCount))

    def gpu(self, index: int) -> Gpu:
        """One of them; the error of one that does not answer may be of any kind."""
        handle = _call(pynvml.nvmlDeviceGetHandleByIndex, index)
        memory = _call(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
        capability = _call(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        return Gpu(
            uuid=GpuUuid(_call(pynvml.nvmlDeviceGetUUID, handle)),
            index=index,
            product=str(_call(pynvml.nvmlDeviceGetName, handle)),
            memory_mib=memory.total // MIB,
            reserved_mib=-(-memory.reserved // MIB),
            compute_capability=ComputeCapability(*capability),
            minor=_if_supported(None, pynvml.nvmlDeviceGetMinorNumber, handle),
            numa_node=self._numa_node(handle),
            mig=_mig(handle),
        )

    def _numa_node(self, handle: Any) -> int | None:
        """The kernel's word for it: NVML only knows GPUs that are NUMA nodes themselves."""
        bus_id = _text(_call(pynvml.nvmlDeviceGetPciInfo, handle).busId).lower()
        domain, _, rest = bus_id.partition(":")
        try:
            node = int((self._pci_devices / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
        except (OSError, ValueError):
            return None
        return node if node >= 0 else None

    def compute_mode(self, uuid: GpuUuid) -> ComputeMode:
        return ComputeMode(_call(pynvml.nvmlDeviceGetComputeMode, _handle(uuid)))

    def set_compute_mode(self, uuid: GpuUuid, mode: ComputeMode) -> None:
        """Needs root. It lasts until the driver forgets the GPU, so longer than this process."""
        _call(pynvml.nvmlDeviceSetComputeMode, _handle(uuid), int(mode))

    def used_mib(self, uuid: GpuUuid) -> int:
        """The MiB that programs use of the GPU, without what the driver keeps for itself."""
        memory = _call(pynvml.nvmlDeviceGetMemoryInfo, _handle(uuid), pynvml.nvmlMemory_v2)
        return int(memory.used // MIB)

    def needs_recovery(self, uuid: GpuUuid) -> bool | None:
        """Whether the driver wants the GPU reset, drained or the node rebooted before more is run.

        None when it does not know: the recovery action came with driver 570, its forerunners with
        550.
        """
        fields = _call(pynvml.nvmlDeviceGetFieldValues, _handle(uuid), list(_RECOVERY_FIELDS))
        told = [f.value.uiVal for f in fields if f.nvmlReturn == pynvml.NVML_SUCCESS]
        return any(value != 0 for value in told) if told else None

    def memory_by_process(self, uuid: GpuUuid) -> dict[int, int]:
        """The MiB of each process that computes on the GPU, the MPS server and its clients too.

        By pid as the caller's pid namespace has it; 0 where the driver keeps it to itself.
        """
        handle = _handle(uuid)
        found: dict[int, int] = {}
        for process in (
            *_call(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle),
            *_if_supported([], pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, handle),
        ):
            mib = -(-(process.usedGpuMemory or 0) // MIB)
            found[process.pid] = max(mib, found.get(process.pid, 0))
        return found

    def watch_xids(self, uuids: Iterable[GpuUuid]) -> "XidWatch":
        return XidWatch(uuids)


class XidWatch:
    """Critical errors of some GPUs from now on; `unwatched` are those that cannot report any."""

    def __init__(self, uuids: Iterable[GpuUuid]) -> None:
        self._set = _call(pynvml.nvmlEventSetCreate)
        self.unwatched = tuple(uuid for uuid in uuids if not self._register(uuid))

    def _register(self, uuid: GpuUuid) -> bool:
        try:
            _call(
                pynvml.nvmlDeviceRegisterEvents,
                _handle(uuid),
                pynvml.nvmlEventTypeXidCriticalError,
                self._set,
            )
        except NvmlError:
            return False
        return True

    def next(self, seconds: float) -> Xid | None:
        """The next one, None when there is none for so long."""
        try:
            event = _call(pynvml.nvmlEventSetWait_v2, self._set, round(seconds * 1000))
        except NvmlTimeout:
            return None
        try:
            return Xid(GpuUuid(_call(pynvml.nvmlDeviceGetUUID, event.device)), event.eventData)
        except NvmlError:
            return Xid(None, event.eventData)

    def close(self) -> None:
        _call(pynvml.nvmlEventSetFree, self._set)


def _mig(handle: Any) -> bool:
    """Whether the GPU is in MIG mode, or will be after its next reset."""
    modes = _if_supported([pynvml.NVML_DEVICE_MIG_DISABLE], pynvml.nvmlDeviceGetMigMode, handle)
    return pynvml.NVML_DEVICE_MIG_ENABLE in modes


def _handle(uuid: GpuUuid) -> Any:
    return _call(pynvml.nvmlDeviceGetHandleByUUID, uuid)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _if_supported(default: T, function: Callable[..., T], *arguments: object) -> T:
    """What the function says, the default where GPU or driver has no such thing."""
    try:
        return _call(function, *arguments)
    except (NotSupported, DriverTooOld):
        return default


def _call(function: Callable[..., T], *arguments: object) -> T:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        failure = _translate(function.__name__, error)
    raise failure  # apart, so that pynvml's error is not even its context


def _translate(function: str, error: Any) -> NvmlError:
    kind, remedy = _KINDS.get(error.value, (NvmlError, ""))
    return kind(f"NVML: {function}: {remedy or error}")
