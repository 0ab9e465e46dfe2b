"""Where the driver's files lie, for a container that gets them from the host and not from NVIDIA's
runtime: its programs, its libraries and the GPUs' device nodes.

Two roots name the same directory: `host` as the host knows it, `here` as it is mounted for us. Only
the driver's own files are taken from there: they run with this image's C library, which need not be
older or newer than the host's, because NVIDIA builds them for C libraries older than any of both.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from nodeagent.edits import DeviceNode

_PROGRAM_FOLDERS: Final = (
    "usr/bin",
    "usr/sbin",
    "bin",
    "sbin",
    "usr/local/bin",
    "opt/bin",
    "usr/local/nvidia/bin",
    "home/kubernetes/bin/nvidia/bin",
)
_LIBRARY_FOLDERS: Final = (
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
PROGRAMS: Final = ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
_LIBRARIES: Final = ("libcuda.so", "libcudadebugger.so", "libnvidia-")
"""How the names of the driver's own libraries begin (NVIDIA's README of the driver, "Installed
Components"); what they need beside these is the C library."""

_NVML: Final = "libnvidia-ml.so.1"
_CONTROL: Final = "nvidiactl"
_SHARED_NODES: Final = (_CONTROL, "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_MOST_LINKS: Final = 40  # on the way to a file, as the kernel has it


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver's root. Where nothing is mounted at `here`, everything is our own container's."""

    host: Path = Path("/")
    here: Path = Path("/driver-root")
    devices: Path = Path("/dev")

    def environment(self, environment: Mapping[str, str], links: Path) -> dict[str, str]:
        """The environment in which the driver's programs and libraries are found.

        Fills the directory `links` with links to them, anew each time, because a driver may come
        late and be replaced. Blocks; raises OSError.
        """
        programs = dict(self._found(_PROGRAM_FOLDERS, lambda name: name in PROGRAMS))
        libraries = dict(self._found(_LIBRARY_FOLDERS, lambda name: name.startswith(_LIBRARIES)))
        added = {}
        for variable, files in (("PATH", programs), ("LD_LIBRARY_PATH", libraries)):
            if files:
                folder = links / ("bin" if variable == "PATH" else "lib")
                _link(folder, files)
                paths = (os.fspath(folder), environment.get(variable, ""))
                added[variable] = os.pathsep.join(filter(None, paths))
        return {**environment, **added}

    def _found(
        self, folders: tuple[str, ...], wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, Path]]:
        """Names and files; where several folders have a name, the last pair is of the first."""
        for folder in reversed(folders):
            place = within(self.here, folder)
            if place is None or not place.is_dir():
                continue
            for name in sorted(filter(wanted, os.listdir(place))):
                file = within(self.here, f"{folder}/{name}")
                if file is not None and file.is_file():
                    yield name, file

    def load_nvml(self) -> None:
        """Lets pynvml find NVML: the linker takes a library that is loaded by its name. Blocks."""
        for folder in _LIBRARY_FOLDERS:
            path = within(self.here, f"{folder}/{_NVML}")
            if path is not None and path.is_file():
                with suppress(OSError):  # pynvml says that there is none
                    ctypes.CDLL(os.fspath(path))
                return

    def device_nodes(self, minor: int | None) -> tuple[DeviceNode, ...]:
        """The nodes that a container needs for the GPU of this minor number; those that exist.

        They lie below the driver's root where that has a /dev of its own, as a driver container's
        has, and else in the host's /dev, which a privileged container sees as its own.
        """
        host, here = Path("/dev"), os.fspath(self.devices)
        own = f"{self.here}/dev"
        if os.path.exists(f"{own}/{_CONTROL}"):
            host, here = self.host / "dev", own
        names = ([] if minor is None else [f"nvidia{minor}"]) + list(_SHARED_NODES)
        # Hundreds of slices are looked up at once: a Path for each would take half of their time.
        found = (name for name in names if os.path.exists(f"{here}/{name}"))
        return tuple(DeviceNode(host / name, f"/dev/{name}") for name in found)


def within(root: Path, path: str) -> Path | None:
    """The file that a path names for a program whose root directory is `root`;
    None where there is no such file.

    Debian's libraries are absolute links by way of /etc/alternatives, which mean that root's.
    """
    left, at, links = list(reversed(PurePath(path).parts)), root, 0
    while left:
        part = left.pop()
        if part == "/":
            at = root
        elif part == "..":
            at = at.parent if at != root else root
        else:
            step = at / part
            try:
                target = os.readlink(step)
            except OSError:
                at = step
                continue
            links += 1
            if links > _MOST_LINKS:
                return None
            left.extend(reversed(PurePath(target).parts))
    return at if at.exists() else None


def _link(folder: Path, files: Mapping[str, Path]) -> None:
    """Makes the folder hold links to these files alone; each is replaced at once, as it is used."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in set(os.listdir(folder)) - files.keys():
        (folder / name).unlink(missing_ok=True)
    for name, file in files.items():
        with suppress(OSError):
            if os.readlink(folder / name) == os.fspath(file):
                continue
        fresh = folder / f".{os.getpid()}-{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(file)
        fresh.replace(folder / name)
