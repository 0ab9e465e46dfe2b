"""What a container in a slice sees, word for word: pods depend on it."""

from dataclasses import replace
from pathlib import Path

from mpslice.gpus import DeviceId, GpuUuid, MemoryUnit
from mpslice.slices import SliceSize
from nodeagent.container import container_edits
from nodeagent.driver.files import Driver
from nodeagent.edits import DeviceNode, Mount
from nodeagent.hardware import Gpu
from nodeagent.settings import Compute, DeviceListStrategy, Pipe, Settings
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
        "NVIDIA_GPU_MEMORY_REQUEST": "9533",
        "NVIDIA_GPU_MEMORY_LIMIT": "9533",
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


def test_sealed_container_gets_the_socket_alone_and_cannot_write() -> None:
    (mount,) = container_edits(A100, slice_(10), replace(SETTINGS, pipe=Pipe.SEALED)).mounts
    assert mount == Mount(Path(f"/run/mpslice/{UUID}/pipe/sealed"), "/run/mpslice/pipe", True)
    (mount,) = container_edits(A100, slice_(10), SETTINGS).mounts
    assert not mount.read_only


def test_share_of_compute_is_never_more_than_all() -> None:
    """A slice that was carved under another unit may count for more gb than its GPU has now."""
    settings = replace(SETTINGS, compute=Compute.PROPORTIONAL, memory_unit=MemoryUnit.GiB)
    environment = container_edits(A100, slice_(85), settings).environment
    assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "100"


def nodes_in(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_device_nodes_that_exist_are_passed(tmp_path: Path) -> None:
    nodes_in(tmp_path / "dev", "nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
    driver = Driver(here=tmp_path / "none", devices=tmp_path / "dev")
    gpu = replace(A100, minor=3)
    edits = container_edits(gpu, slice_(10), replace(SETTINGS, driver=driver))
    names = ["nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
    assert edits.devices == tuple(DeviceNode(Path("/dev", n), f"/dev/{n}") for n in names)
    assert edits.cdi_devices == ()
    without = replace(SETTINGS, driver=driver, pass_device_specs=False)
    assert container_edits(gpu, slice_(10), without).devices == ()


def test_device_nodes_of_a_driver_container_lie_below_its_root(tmp_path: Path) -> None:
    nodes_in(tmp_path / "here" / "dev", "nvidia3", "nvidiactl")
    driver = Driver(Path("/run/nvidia/driver"), tmp_path / "here", tmp_path / "none")
    edits = container_edits(replace(A100, minor=3), slice_(10), replace(SETTINGS, driver=driver))
    assert [(str(node.host), node.container) for node in edits.devices] == [
        ("/run/nvidia/driver/dev/nvidia3", "/dev/nvidia3"),
        ("/run/nvidia/driver/dev/nvidiactl", "/dev/nvidiactl"),
    ]


def test_cdi_names_the_gpu_and_nvidias_runtime_adds_nothing(tmp_path: Path) -> None:
    nodes_in(tmp_path / "dev", "nvidia3", "nvidiactl")
    settings = replace(
        SETTINGS,
        device_list_strategy=DeviceListStrategy.CDI_CRI,
        driver=Driver(here=tmp_path / "none", devices=tmp_path / "dev"),
    )
    edits = container_edits(replace(A100, minor=3), slice_(10), settings)
    assert edits.cdi_devices == (f"nvidia.com/gpu={UUID}",)
    assert edits.devices == ()
    assert edits.environment["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert edits.environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9533M"


def test_limit_is_never_none_at_all() -> None:
    """0 may mean none; such a GPU is left alone, and may have slices from before."""
    much = replace(SETTINGS, reserved_memory_mib=256 * 1024)
    environment = container_edits(A100, slice_(10), much).environment
    assert environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=1M"
