"""The control group under which all pods of the node live, on cgroup v1 and v2.

Its path is one for the whole machine, as there is one node at a time: whoever cleans
up kills what is in it and needs no list of containers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.waiting import wait_until

ROOT = "mpslice-node"
_MOUNTED = Path("/sys/fs/cgroup")


def create() -> None:
    """Make the root in every hierarchy; the kubelet refuses one that does not exist."""
    for mount in _hierarchies():
        _copy_cpuset(mount, mount / ROOT)
        if (mount / "cgroup.controllers").exists():
            _delegate(mount)
            _delegate(mount / ROOT)


def kill() -> None:
    """SIGKILL every process of every pod; returns when none is left."""

    def gone() -> bool:
        pids = {pid for folder in _folders() for pid in _pids(folder)}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # ended since it was listed
        return not pids

    wait_until(gone, "the pods' processes ended", seconds=15)


def remove() -> None:
    """Remove the groups, deepest first; a group whose last process just ended is busy."""

    def removed() -> bool:
        left = False
        for folder in _folders():
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass  # another clean-up was faster
            except OSError:
                left = True
        return not left

    wait_until(removed, f"control group {ROOT} removed", seconds=10)


def exists() -> bool:
    """Whether any of it is left."""
    return any((mount / ROOT).exists() for mount in _hierarchies())


def _hierarchies() -> list[Path]:
    """Mount points: the one of v2, or all of v1 and of v2 beside it (runc uses each)."""
    mounts: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        path = Path(before.split(" ")[4])
        if after.split(" ")[0] in ("cgroup", "cgroup2") and path.is_relative_to(_MOUNTED):
            mounts.append(path)
    if not mounts:
        raise ClusterError(f"no control groups are mounted below {_MOUNTED}; mount them")
    return mounts


def _copy_cpuset(parent: Path, child: Path) -> None:
    """A new group of v1's cpuset hierarchy takes no process before these are set."""
    child.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        source = parent / name
        if source.exists() and not (parent / "cgroup.controllers").exists():
            (child / name).write_text(source.read_text())


def _delegate(group: Path) -> None:
    available = (group / "cgroup.controllers").read_text().split()
    if not available:
        return  # v2 beside v1, which has them all
    try:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))
    except OSError as error:
        raise ClusterError(
            f"{group} cannot hand its controllers down ({error.strerror}); in a container, start "
            "it with the host's cgroup namespace"
        ) from error


def _folders() -> Iterator[Path]:
    for mount in _hierarchies():
        for folder, _subfolders, _files in os.walk(mount / ROOT, topdown=False):
            yield Path(folder)


def _pids(folder: Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []  # the group went away meanwhile
