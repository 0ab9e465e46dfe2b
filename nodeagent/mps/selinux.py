"""SELinux's label for what containers share with daemons; without SELinux there is nothing to do.

A container may only open what carries it, and nobody relabels what a device plugin has mounted.
"""

import os
from pathlib import Path
from typing import Final

CONTAINER_FILE: Final = "system_u:object_r:container_file_t:s0"

_SELINUX: Final = Path("/sys/fs/selinux")
_ATTRIBUTE: Final = "security.selinux"


def label_for_containers(directory: Path, selinux: Path = _SELINUX) -> None:
    """What is made in the directory from now on inherits it. Blocks; raises OSError."""
    if selinux.is_dir():
        os.setxattr(directory, _ATTRIBUTE, CONTAINER_FILE.encode())


def mount_option(selinux: Path = _SELINUX) -> str:
    """What labels all of a file system that is mounted."""
    return f',context="{CONTAINER_FILE}"' if selinux.is_dir() else ""
