"""Which pod a process of this machine belongs to, as the kernel tells: by its cgroup's path.

The kubelet names a pod's cgroup after the pod's uid (kubelet/cm/pod_container_manager_linux.go);
with the systemd driver the uid's dashes are underscores.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

# The uid of a static pod is a hash without dashes (kubelet/config/common.go).
_POD = re.compile(
    r"[/-]pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})\b", re.ASCII
)


def pod_uid_of(cgroups: str) -> str:
    """The pod's uid in the text of a `/proc/<pid>/cgroup`, "" when it names none."""
    found = _POD.search(cgroups)
    return found[1].replace("_", "-") if found else ""


def pod_uid(pid: int, proc: Path = PROC) -> str:
    """The uid of the pod that the process belongs to, "" for none or when it is gone. Blocks."""
    try:
        return pod_uid_of((proc / str(pid) / "cgroup").read_text())
    except OSError:
        return ""


def pids_with_variable(variable: str, proc: Path = PROC) -> Iterator[int]:
    """The processes that were started with `NAME=value` in their environment. Blocks."""
    wanted = variable.encode()
    for entry in os.listdir(proc):
        if entry.isdigit() and wanted in _environment(proc / entry):
            yield int(entry)


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return []
