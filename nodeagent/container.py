"""What a container in a slice finds inside: environment and mounts, from the slice's id alone.

Pure and apart, because it is a contract with what runs in the pods, and because the kubelet freezes
the answer for the container's life.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpslice.gpus import DeviceId, capacity_gb, limit_mib
from nodeagent.hardware import Gpu
from nodeagent.settings import Compute, Settings

OWN_PREFIX: Final = "MPSLICE_"
"""No other device plugin sets variables that begin so."""

PIPE_IN_CONTAINER: Final = "/run/mpslice/pipe"
"""Not /tmp/nvidia-mps, which NVIDIA's container runtime mounts by itself when the host has it."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host in the container."""

    host: Path
    container: str


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """What Allocate answers for one container."""

    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]


def slice_limit_mib(gpu: Gpu, device: DeviceId, settings: Settings) -> int:
    """The MiB that a process in the slice may allocate."""
    return limit_mib(
        device.size,
        capacity=capacity_gb(gpu.memory_mib, settings.memory_unit),
        memory_mib=gpu.memory_mib,
        driver_reserved_mib=gpu.reserved_mib,
        mps_reserved_mib=settings.reserved_memory_mib,
    )


def container_edits(gpu: Gpu, device: DeviceId, settings: Settings) -> ContainerEdits:
    """The table in DESIGN.md, section 3, "Inside the container"."""
    limit = slice_limit_mib(gpu, device, settings)
    environment = {
        "NVIDIA_VISIBLE_DEVICES": gpu.uuid,
        # One entry, ordinal 0: the container sees one GPU. UUIDs are ignored by drivers before 615
        # and an entry for a GPU that the process does not see drops every limit.
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={limit}M",
        "CUDA_MPS_PIPE_DIRECTORY": PIPE_IN_CONTAINER,
        "MPSLICE_MEMORY_MIB": str(limit),
        "MPSLICE_MEMORY_FRACTION": f"{limit / gpu.memory_mib:.4f}",
    }
    if settings.compute is Compute.PROPORTIONAL:
        capacity = capacity_gb(gpu.memory_mib, settings.memory_unit)
        environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(-(-100 * device.size // capacity))
    mounts = [Mount(settings.pipe_directory(gpu.uuid), PIPE_IN_CONTAINER)]
    if not settings.host_ipc:
        mounts.append(Mount(settings.shared_memory, "/dev/shm"))  # noqa: S108  its fixed name
    return ContainerEdits(environment, tuple(mounts))
