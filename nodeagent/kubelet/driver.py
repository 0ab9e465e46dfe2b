"""Where the driver's files lie, for a container that gets them from the host and not from NVIDIA's
runtime: its programs, its libraries and the GPUs' device nodes.

Two roots name the same directory: `host` as the host knows it, `here` as it is mounted for us.
"""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROGRAMS: Final = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "opt/bin")
_LIBRARIES: Final = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib",
    "lib64",
    "usr/local/nvidia/lib64",
    "home/kubernetes/bin/nvidia/lib64",
)
_CUDA: Final = "libcuda.so.1"
_NVML: Final = "libnvidia-ml.so.1"
_CONTROL: Final = "nvidiactl"
_SHARED_NODES: Final = (_CONTROL, "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node of the host and what it is called in a container."""

    host: Path
    container: str


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver's root. Where nothing is mounted at `here`, everything is our own container's."""

    host: Path = Path("/")
    here: Path = Path("/driver-root")
    devices: Path = Path("/dev")

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment, with the driver's programs first on its path, and its libraries."""
        programs = [str(self.here / p) for p in _PROGRAMS if (self.here / p).is_dir()]
        libraries = [str(self.here / p) for p in _LIBRARIES if (self.here / p / _CUDA).exists()]
        added = {"PATH": programs, "LD_LIBRARY_PATH": libraries}
        paths = {
            name: os.pathsep.join([*more, *filter(None, [environment.get(name)])])
            for name, more in added.items()
            if more
        }
        return {**environment, **paths}

    def load_nvml(self) -> None:
        """Lets pynvml find NVML: the linker takes a library that is loaded by its name. Blocks."""
        for path in (self.here / p / _NVML for p in _LIBRARIES):
            if path.exists():
                ctypes.CDLL(os.fspath(path))
                return

    def device_nodes(self, minor: int | None) -> tuple[DeviceNode, ...]:
        """The nodes that a container needs for the GPU of this minor number; those that exist.

        They lie below the driver's root where that has a /dev of its own, as a driver container's
        has, and else in the host's /dev, which a privileged container sees as its own.
        """
        host, here = Path("/dev"), self.devices
        if (self.here / "dev" / _CONTROL).exists():
            host, here = self.host / "dev", self.here / "dev"
        names = ([] if minor is None else [f"nvidia{minor}"]) + list(_SHARED_NODES)
        return tuple(DeviceNode(host / n, f"/dev/{n}") for n in names if (here / n).exists())
