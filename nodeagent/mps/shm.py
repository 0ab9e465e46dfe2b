"""The private /dev/shm that slices and MPS servers share where pods have no hostIPC.

A tmpfs below --mps-root, so that the host and with it the kubelet see it; bounded, because every
slice may fill it, and swept, because a process that is killed leaves its files there.
"""

import ctypes
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent.mps.errors import BadMpsSettings
from nodeagent.mps.selinux import mount_option

SWEEP_SECONDS: Final = 600.0
"""A file that nobody has open or mapped at two sweeps in a row is deleted. One in a folder stays
for twelve, since programs keep there what they open by name; so does a folder that is empty."""

_SWEEPS: Final = 2
_SWEEPS_IN_FOLDERS: Final = 12

_DEV_SHM: Final = Path("/dev/shm")  # noqa: S108  its fixed name
_PROC: Final = Path("/proc")

# <sys/mount.h>
_NOSUID: Final = 2
_NODEV: Final = 4
_NOEXEC: Final = 8
_BIND: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger(__name__)


def provide(directory: Path, size_mib: int | None, dev_shm: Path = _DEV_SHM) -> None:
    """Makes `directory` a tmpfs and this process's /dev/shm. Raises BadMpsSettings.

    `size_mib` None leaves it at half of the machine's memory. What is there already is kept, since
    running slices use it.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    size = "" if size_mib is None else f",size={size_mib}m"
    options = f"mode=1777{size}{mount_option()}"
    try:
        if not os.path.ismount(directory):
            _mount("mpslice", directory, "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
        if identity(dev_shm) != identity(directory):
            _mount(str(directory), dev_shm, "", _BIND, "")
    except OSError as error:
        raise BadMpsSettings(
            f"--host-ipc=false: {directory} cannot be mounted as /dev/shm ({error.strerror}); run "
            "the container privileged, with mountPropagation Bidirectional for --mps-root"
        ) from error


def identity(directory: Path) -> str:
    """Names a directory's file system and inode, the same in every mount namespace."""
    found = directory.stat()
    return f"{found.st_dev}:{found.st_ino}"


@dataclass(slots=True)
class Sweeper:
    """Deletes what dead processes left. It has to see all processes of the machine (hostPID)."""

    directory: Path
    _unused: dict[int, int] = field(default_factory=dict, init=False)  # sweeps, by inode

    def sweep(self) -> int:
        """How many files were deleted. Blocks, for a fraction of a second."""
        device = self.directory.stat().st_dev
        used = set(_inodes_in_use(device))
        unused = [entry for entry in _leaves(self.directory) if entry.inode() not in used]
        before = self._unused
        self._unused = {entry.inode(): before.get(entry.inode(), 0) + 1 for entry in unused}
        return sum(_delete(entry) for entry in unused if self._is_due(entry))

    def _is_due(self, entry: "os.DirEntry[str]") -> bool:
        on_top = Path(entry).parent == self.directory and not entry.is_dir(follow_symlinks=False)
        return self._unused[entry.inode()] >= (_SWEEPS if on_top else _SWEEPS_IN_FOLDERS)


def _leaves(directory: Path) -> Iterator["os.DirEntry[str]"]:
    """Files, and folders with nothing in them; what goes meanwhile is passed over."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.is_file(follow_symlinks=False):
            yield entry
        elif entry.is_dir(follow_symlinks=False):
            inside = list(_leaves(Path(entry)))
            yield from inside
            if not inside and not os.listdir(entry):
                yield entry


def _delete(entry: "os.DirEntry[str]") -> int:
    """How many were deleted: 1, or 0 where something has come into the folder meanwhile."""
    try:
        if entry.is_dir(follow_symlinks=False):
            Path(entry).rmdir()
        else:
            Path(entry).unlink(missing_ok=True)
    except OSError:
        return 0
    return 1


def _inodes_in_use(device: int) -> Iterator[int]:
    """Inodes of a file system that any process has mapped or open."""
    mapped = f" {os.major(device):02x}:{os.minor(device):02x} "
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            yield from _mapped(process / "maps", mapped)
            yield from _open(process / "fd", device)
        except OSError:
            continue  # it has ended


def _mapped(maps: Path, device: str) -> Iterator[int]:
    for line in maps.read_text(errors="replace").splitlines():
        if device in line:
            yield int(line.split(maxsplit=5)[4])


def _open(handles: Path, device: int) -> Iterator[int]:
    for handle in handles.iterdir():
        try:
            found = handle.stat()
        except OSError:
            continue
        if found.st_dev == device and stat.S_ISREG(found.st_mode):
            yield found.st_ino


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    words = [source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()]
    if _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[4]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
