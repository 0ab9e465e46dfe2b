"""SELinux's label for what containers share with daemons; without SELinux there is nothing to do.

A container may only open what carries it, and nobody relabels what a device plugin has mounted.
"""

import os
from pathlib import Path
from typing import Final

from nodeagent.mps.errors import SelinuxRefuses

CONTAINER_FILE: Final = "system_u:object_r:container_file_t:s0"

_SELINUX: Final = Path("/sys/fs/selinux")
_ATTRIBUTE: Final = "security.selinux"


def label_for_containers(directory: Path, selinux: Path = _SELINUX) -> None:
    """What is made in the directory from now on inherits it. Blocks; raises SelinuxRefuses."""
    if not selinux.is_dir():
        return
    try:
        os.setxattr(directory, _ATTRIBUTE, CONTAINER_FILE.encode())
    except OSError as error:
        raise SelinuxRefuses(
            f"SELinux lets nobody label {directory} as {CONTAINER_FILE} ({error.strerror}), which "
            "containers need to open it; run the container privileged, and put --mps-root on a "
            "file system that has labels, such as /run"
        ) from error


def mount_option(selinux: Path = _SELINUX) -> str:
    """What labels all of a file system that is mounted."""
    return f',context="{CONTAINER_FILE}"' if selinux.is_dir() else ""
