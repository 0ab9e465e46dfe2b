"""The private /dev/shm that slices and MPS servers share where pods have no hostIPC.

A tmpfs below --mps-root, so that the host and with it the kubelet see it; bounded, because every
slice may fill it, and swept, because a process that is killed leaves its files there.
"""

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from nodeagent.linux.mounts import bind, mount_tmpfs
from nodeagent.mps.errors import BadMpsSettings
from nodeagent.mps.selinux import mount_option

SWEEP_SECONDS: Final = 600.0
"""A file that nobody has open or mapped at two sweeps in a row is deleted. One in a folder stays
for twelve, since programs keep there what they open by name; so does a folder that is empty."""

_SWEEPS: Final = 2
_SWEEPS_IN_FOLDERS: Final = 12

_MOST_ENTRIES: Final = 200_000
"""Of one sweep, whatever containers put there; and so many folders within one another."""
_DEEPEST: Final = 32
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK

_DEV_SHM: Final = Path("/dev/shm")  # noqa: S108  its fixed name
_PROC: Final = Path("/proc")

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
            mount_tmpfs(directory, options)
        if identity(dev_shm) != identity(directory):
            bind(directory, dev_shm)
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
        top = os.open(self.directory, _DIRECTORY)
        try:
            walk = _Walk(os.fstat(top).st_dev, self._unused)
            walk.through(top)
        finally:
            os.close(top)
        self._unused = walk.unused
        return walk.deleted


class _Walk:
    """One look at all files, and folders with nothing in them.

    Every container can rename, replace and link what is here while we look. So each folder is
    opened once, by its name in the one before and following no link, and what is in it is deleted
    through it: no name can lead out of this file system.
    """

    def __init__(self, device: int, before: Mapping[int, int]) -> None:
        self.unused: dict[int, int] = {}
        self.deleted = 0
        self._device = device
        self._before = before
        self._used = set(_inodes_in_use(device))
        self._left = _MOST_ENTRIES

    def through(self, directory: int, depth: int = 0) -> bool:
        """Whether there is nothing in the directory, given as a descriptor."""
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, self._left)]
        self._left -= len(names)
        for name in names:
            try:
                self._look_at(name, directory, depth)
            except OSError:
                continue  # it has gone meanwhile, or is another thing now
        return not names and self._left > 0

    def _look_at(self, name: str, directory: int, depth: int) -> None:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and depth < _DEEPEST:
            folder = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                inside = os.fstat(folder)
                empty = inside.st_dev == self._device and self.through(folder, depth + 1)
            finally:
                os.close(folder)
            if empty and self._is_due(inside.st_ino, _SWEEPS_IN_FOLDERS):
                os.rmdir(name, dir_fd=directory)
                self.deleted += 1
            return
        if not stat.S_ISREG(found.st_mode) or found.st_ino in self._used:
            return
        if self._is_due(found.st_ino, _SWEEPS_IN_FOLDERS if depth else _SWEEPS):
            os.unlink(name, dir_fd=directory)
            self.deleted += 1

    def _is_due(self, inode: int, sweeps: int) -> bool:
        self.unused[inode] = self._before.get(inode, 0) + 1
        return self.unused[inode] >= sweeps


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
