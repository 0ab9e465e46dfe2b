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
"""A file that nobody has open or mapped at two sweeps in a row is deleted."""

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
    _unused: frozenset[int] = field(default=frozenset(), init=False)

    def sweep(self) -> int:
        """How many files were deleted. Blocks, for a fraction of a second."""
        device = self.directory.stat().st_dev
        used = set(_inodes_in_use(device))
        unused = [(e, e.inode()) for e in _files(self.directory) if e.inode() not in used]
        deleted = 0
        for entry, inode in unused:
            if inode in self._unused:
                Path(entry).unlink(missing_ok=True)
                deleted += 1
        self._unused = frozenset(inode for _, inode in unused)
        return deleted


def _files(directory: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield entry


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
