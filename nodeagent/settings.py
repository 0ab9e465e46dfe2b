"""What the agent was told at its start, checked once, and the paths on the host that follow."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from mpslice.flags import Address
from mpslice.gpus import GpuUuid, MemoryUnit
from nodeagent.driver.files import Driver
from nodeagent.errors import BadSettings
from nodeagent.gpus.health import NVIDIAS_LIST, IgnoredXids
from nodeagent.mps.paths import LONGEST_SOCKET, UUID_LENGTH, MpsRoot

SOCKET_PATH_BYTES: Final = 107
"""What fits into sockaddr_un.sun_path beside its final zero (unix(7))."""

_LONGEST_ENDPOINT: Final = "mpslice-00000000-999999.sock"


class Compute(StrEnum):
    """Whether slices share the GPU's compute equally or are capped at their share of memory."""

    SHARED = "shared"
    PROPORTIONAL = "proportional"


class DeviceListStrategy(StrEnum):
    """How a container gets its GPU: by NVIDIA's container runtime, or by the container runtime's
    own CDI (the names are NVIDIA's device plugin's)."""

    ENVVAR = "envvar"
    CDI_CRI = "cdi-cri"


class Pipe(StrEnum):
    """What a container gets of its daemon's pipe directory: all of it, or the socket alone."""

    OPEN = "open"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Settings:
    """The flags of `mpslice-nodeagent`; memory in MiB."""

    node_name: str
    device_plugin_dir: Path
    pod_resources_socket: Path
    mps_root: Path
    ops_listen: Address | None
    kubeconfig: str | None = None
    simulated_gpus: Path | None = None
    mps_user: int = 1000
    host_ipc: bool = True
    memory_unit: MemoryUnit = MemoryUnit.GB
    reserved_memory_mib: int = 256
    compute: Compute = Compute.SHARED
    pipe: Pipe = Pipe.OPEN
    device_list_strategy: DeviceListStrategy = DeviceListStrategy.ENVVAR
    pass_device_specs: bool = True
    cdi: bool = True
    cdi_dir: Path = Path("/var/run/cdi")
    driver: Driver = field(default_factory=Driver)
    ignored_xids: IgnoredXids = NVIDIAS_LIST
    quota: bool = False

    @property
    def kubelet_socket(self) -> Path:
        return self.device_plugin_dir / "kubelet.sock"

    @property
    def checkpoint(self) -> Path:
        """The kubelet's record of its allocations (devicemanager/types.go)."""
        return self.device_plugin_dir / "kubelet_internal_checkpoint"

    @property
    def shared_memory(self) -> Path:
        """What `--host-ipc=false` mounts as /dev/shm, shared with the MPS servers."""
        return MpsRoot(self.mps_root).shared_memory

    def pipe_directory(self, gpu: GpuUuid) -> Path:
        """Where the daemon of a GPU listens."""
        return MpsRoot(self.mps_root).pipe(gpu)

    def sealed_directory(self, gpu: GpuUuid) -> Path:
        """Where that daemon's socket has a second name, and nothing else is."""
        return MpsRoot(self.mps_root).sealed(gpu)

    def check(self) -> None:
        """Raises BadSettings for what cannot work on this machine, whatever the kubelet does."""
        if not self.device_plugin_dir.is_dir():
            raise BadSettings(
                f"--device-plugin-dir: {self.device_plugin_dir} is no directory; "
                "mount the kubelet's there, /var/lib/kubelet/device-plugins"
            )
        pipe = self.pipe_directory(GpuUuid("x" * UUID_LENGTH))
        check_socket_path("--device-plugin-dir", self.device_plugin_dir / _LONGEST_ENDPOINT)
        check_socket_path("--pod-resources-socket", self.pod_resources_socket)
        check_socket_path("--mps-root", pipe / LONGEST_SOCKET)


def check_socket_path(flag: str, path: Path) -> None:
    """Raises BadSettings for a path that no socket can have."""
    length = len(bytes(path))
    if length > SOCKET_PATH_BYTES:
        raise BadSettings(
            f"{flag}: the socket path {path} is {length} bytes long and a socket's ends at "
            f"{SOCKET_PATH_BYTES}; choose a shorter directory"
        )
