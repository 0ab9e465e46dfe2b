"""What a container in a slice finds inside: environment and mounts, from the slice's id alone.

Pure and apart, because it is a contract with what runs in the pods, and because the kubelet freezes
the answer for the container's life.
"""

from typing import Final

from mpslice.gpus import DeviceId, capacity_gb, limit_mib
from nodeagent.edits import ContainerEdits, Mount
from nodeagent.hardware import Gpu
from nodeagent.settings import Compute, DeviceListStrategy, Pipe, Settings

OWN_PREFIX: Final = "MPSLICE_"
"""No other device plugin sets variables that begin so."""

PIPE_IN_CONTAINER: Final = "/run/mpslice/pipe"
"""Not /tmp/nvidia-mps, which NVIDIA's container runtime mounts by itself when the host has it."""

CDI_KIND: Final = "nvidia.com/gpu"
"""The kind in the CDI specification that NVIDIA's toolkit makes, `nvidia-ctk cdi generate`; by
default it names each GPU by index and by UUID."""

NOT_BY_NVIDIAS_RUNTIME: Final = "void"
"""As NVIDIA_VISIBLE_DEVICES: NVIDIA's runtime adds nothing. Images often say `all`."""


def slice_limit_mib(gpu: Gpu, device: DeviceId, settings: Settings) -> int:
    """The MiB that a process in the slice may allocate; at least 1, as 0 may mean no limit."""
    limit = limit_mib(
        device.size,
        capacity=capacity_gb(gpu.memory_mib, settings.memory_unit),
        memory_mib=gpu.memory_mib,
        driver_reserved_mib=gpu.reserved_mib,
        mps_reserved_mib=settings.reserved_memory_mib,
    )
    return max(1, limit)


def container_edits(gpu: Gpu, device: DeviceId, settings: Settings) -> ContainerEdits:
    """What docs/design/agent.md lists below "Inside the container". Looks at /dev."""
    limit = slice_limit_mib(gpu, device, settings)
    by_cdi = settings.device_list_strategy is DeviceListStrategy.CDI_CRI
    environment = {
        "NVIDIA_VISIBLE_DEVICES": NOT_BY_NVIDIAS_RUNTIME if by_cdi else gpu.uuid,
        # One entry, ordinal 0: the container sees one GPU. UUIDs are ignored by drivers before 615
        # and an entry for a GPU that the process does not see drops every limit.
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={limit}M",
        "CUDA_MPS_PIPE_DIRECTORY": PIPE_IN_CONTAINER,
        "MPSLICE_MEMORY_MIB": str(limit),
        "MPSLICE_MEMORY_FRACTION": f"{limit / gpu.memory_mib:.4f}",
        # By these a hook of NVIDIA's container toolkit (1.20.1 and later) has drivers from 615 on
        # hold the whole container to the slice (nvidia-container-toolkit, pull request 2075).
        "NVIDIA_GPU_MEMORY_REQUEST": str(limit),
        "NVIDIA_GPU_MEMORY_LIMIT": str(limit),
    }
    if settings.compute is Compute.PROPORTIONAL:
        environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(_percentage(gpu, device, settings))
    mounts = [_pipe(gpu, settings)]
    if not settings.host_ipc:
        mounts.append(Mount(settings.shared_memory, "/dev/shm"))  # noqa: S108  its fixed name
    # A CDI device brings its nodes itself. Without them a systemd that is reloaded takes the GPU
    # away from a container that NVIDIA's runtime gave it to behind the back of runc.
    by_node = settings.pass_device_specs and not by_cdi
    return ContainerEdits(
        environment,
        tuple(mounts),
        devices=settings.driver.device_nodes(gpu.minor) if by_node else (),
        cdi_devices=(f"{CDI_KIND}={gpu.uuid}",) if by_cdi else (),
    )


def _pipe(gpu: Gpu, settings: Settings) -> Mount:
    """The pipe directory, or sealed, only the daemon's socket in a directory of its own."""
    if settings.pipe is Pipe.SEALED:
        return Mount(settings.sealed_directory(gpu.uuid), PIPE_IN_CONTAINER, read_only=True)
    return Mount(settings.pipe_directory(gpu.uuid), PIPE_IN_CONTAINER)


def _percentage(gpu: Gpu, device: DeviceId, settings: Settings) -> int:
    """The slice's share of the GPU, rounded up; more than all of it after a change of the unit."""
    capacity = max(1, capacity_gb(gpu.memory_mib, settings.memory_unit))
    return min(100, -(-100 * device.size // capacity))
