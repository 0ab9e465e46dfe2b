"""NVML through pynvml: typed records and our own errors come out. The one module that knows pynvml.

pynvml's errors are unhashable and break when they are compared, so none of them leaves here. Every
call blocks; `offloop` keeps it away from the event loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import pynvml  # type: ignore[import-untyped]  # it has no types

from mpslice.gpus import MIB, GpuUuid
from nodeagent.errors import (
    DriverNotLoaded,
    DriverTooOld,
    GpuLost,
    GpuNeedsReset,
    NotSupported,
    NvmlError,
    NvmlMissing,
    NvmlNotPermitted,
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
        DriverNotLoaded,
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
    pynvml.NVML_ERROR_NOT_SUPPORTED: (NotSupported, "the GPU or its driver does not support it"),
}


class ComputeMode(IntEnum):
    """nvmlComputeMode_t: who may have contexts on a GPU."""

    DEFAULT = pynvml.NVML_COMPUTEMODE_DEFAULT
    EXCLUSIVE_THREAD = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD
    PROHIBITED = pynvml.NVML_COMPUTEMODE_PROHIBITED
    EXCLUSIVE_PROCESS = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS


@dataclass(frozen=True, slots=True)
class Silent:
    """A GPU that the driver counts and that does not answer, so that nobody knows its UUID."""

    index: int
    error: NvmlError


@dataclass(frozen=True, slots=True)
class Enumeration:
    """What the driver shows, by index."""

    gpus: tuple[Gpu, ...] = ()
    silent: tuple[Silent, ...] = ()


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

    def driver_version(self) -> str:
        return str(_call(pynvml.nvmlSystemGetDriverVersion))

    def enumerate(self) -> Enumeration:
        """Every GPU that the driver counts."""
        gpus, silent = [], []
        for index in range(_call(pynvml.nvmlDeviceGetCount)):
            try:
                gpus.append(self._gpu(index, _call(pynvml.nvmlDeviceGetHandleByIndex, index)))
            except (GpuLost, GpuNeedsReset, NotSupported, NvmlNotPermitted) as error:
                silent.append(Silent(index, error))
        return Enumeration(tuple(gpus), tuple(silent))

    def _gpu(self, index: int, handle: Any) -> Gpu:
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
