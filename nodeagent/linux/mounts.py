"""Mounts, made and taken away where every process or only this one sees them: mount(2)."""

import os
from pathlib import Path
from typing import Final

from nodeagent.linux.libc import call

# <sys/mount.h>
NOSUID: Final = 2
NODEV: Final = 4
NOEXEC: Final = 8
_READ_ONLY: Final = 1
_REMOUNT: Final = 32
_BIND: Final = 4096
_RECURSIVE: Final = 16384
_PRIVATE: Final = 1 << 18
_NEW_MOUNTS: Final = 0x20000  # <sched.h>
_DETACH: Final = 2

_MOUNTS: Final = Path("/proc/self/mountinfo")


def mount_tmpfs(directory: Path, options: str) -> None:
    """Raises OSError."""
    _mount("mpslice", directory, "tmpfs", NOSUID | NODEV | NOEXEC, options)


def bind(directory: Path, at: Path) -> None:
    """Shows a directory in another place too. Raises OSError."""
    _mount(str(directory), at, "", _BIND, "")


def unmount(directory: Path) -> None:
    """Takes a file system away; a process that still uses it keeps it. Raises OSError."""
    call("umount2", os.fsencode(directory), _DETACH)


def reaches_host(directory: Path) -> bool:
    """Whether what is mounted below the directory from now on is seen outside of this container.

    So it is where mounts are propagated ("shared" in proc_pid_mountinfo(5)), and where there is no
    container.
    """
    try:
        ours = os.readlink("/proc/self/ns/mnt")
        if os.getppid() != 1 and ours == os.readlink("/proc/1/ns/mnt"):
            return True
    except OSError:
        pass  # another user's process
    found, longest = False, -1
    for line in _MOUNTS.read_text().splitlines():
        fields = line.split()
        at = Path(fields[4])
        if directory.is_relative_to(at) and len(at.parts) >= longest:
            longest = len(at.parts)
            found = any(field.startswith("shared:") for field in fields[6 : fields.index("-")])
    return found


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    words = [source.encode(), os.fsencode(target), kind.encode()]
    call("mount", *words, flags, options.encode())


def leave_host() -> None:
    """What this process mounts from now on is seen by it and its children alone. Raises OSError."""
    call("unshare", _NEW_MOUNTS)
    call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)


def enter(pid: int) -> None:
    """This process sees the file systems that another process sees. Raises OSError."""
    file = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    try:
        call("setns", file, _NEW_MOUNTS)
    finally:
        os.close(file)


def bind_read_only(directory: str, at: str) -> None:
    """Shows a directory in another place too, where nobody can write to it. Raises OSError."""
    bind(Path(directory), Path(at))
    flags = _BIND | _REMOUNT | _READ_ONLY
    call("mount", b"none", os.fsencode(at), None, flags, None)
