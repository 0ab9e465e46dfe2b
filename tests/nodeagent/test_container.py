"""What a container in a slice sees, word for word: pods depend on it."""

from dataclasses import replace
from pathlib import Path

from mpslice.gpus import DeviceId, GpuUuid, MemoryUnit
from mpslice.slices import SliceSize
from nodeagent.container import Mount, container_edits
from nodeagent.hardware import Gpu
from nodeagent.settings import Compute, Settings
from tests.nodeagent.conftest import AMPERE

UUID = GpuUuid("GPU-00000000-0000-0000-0000-000000000001")
A100 = Gpu(UUID, 0, "NVIDIA A100-SXM4-80GB", 81920, 626, AMPERE)
SETTINGS = Settings(
    node_name="n1",
    device_plugin_dir=Path("/var/lib/kubelet/device-plugins"),
    pod_resources_socket=Path("/var/lib/kubelet/pod-resources/kubelet.sock"),
    mps_root=Path("/run/mpslice"),
    ops_listen=None,
)


def slice_(size: int) -> DeviceId:
    return DeviceId(UUID, SliceSize(size), 3)


def test_environment_and_mount_of_ten_gb_of_an_a100() -> None:
    edits = container_edits(A100, slice_(10), SETTINGS)
    assert edits.environment == {
        "NVIDIA_VISIBLE_DEVICES": UUID,
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=9533M",
        "CUDA_MPS_PIPE_DIRECTORY": "/run/mpslice/pipe",
        "MPSLICE_MEMORY_MIB": "9533",
        "MPSLICE_MEMORY_FRACTION": "0.1164",
    }
    assert edits.mounts == (Mount(Path(f"/run/mpslice/{UUID}/pipe"), "/run/mpslice/pipe"),)


def test_all_slices_of_a_gpu_stay_within_what_it_has_for_them() -> None:
    whole = container_edits(A100, slice_(85), SETTINGS).environment
    assert int(whole["MPSLICE_MEMORY_MIB"]) == 81920 - 626 - 256


def test_limit_follows_the_memory_unit_and_the_reserve() -> None:
    gib = replace(SETTINGS, memory_unit=MemoryUnit.GiB, reserved_memory_mib=0)
    environment = container_edits(A100, slice_(80), gib).environment
    assert environment["MPSLICE_MEMORY_MIB"] == str(81920 - 626)


def test_proportional_compute_is_rounded_up() -> None:
    settings = replace(SETTINGS, compute=Compute.PROPORTIONAL)
    environment = container_edits(A100, slice_(10), settings).environment
    assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "12"


def test_private_shared_memory_is_mounted_without_host_ipc() -> None:
    edits = container_edits(A100, slice_(10), replace(SETTINGS, host_ipc=False))
    assert edits.mounts[1:] == (Mount(Path("/run/mpslice/shm"), "/dev/shm"),)
