"""The pipe directory of one GPU, which containers mount: a small file system of its own.

A container may fill it and then fills nothing else; what it leaves there is never opened, followed
or read by us. In `sealed` beside the daemon's files stands a second name of its socket alone, for
containers that are to have no more than that.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nodeagent.linux.mounts import mount_tmpfs, reaches_host, unmount
from nodeagent.mps.answers import CONTROL_SOCKET
from nodeagent.mps.selinux import label_for_containers, mount_option

SIZE: Final = "size=1m,nr_inodes=64"
"""The daemon's own files are a few sockets, a FIFO and a few bytes."""

_FRESH: Final = ".control"

log = logging.getLogger(__name__)


def provide(pipe: Path, sealed: Path) -> None:
    """Makes the directory ready for a daemon that is about to start. Blocks; raises OSError.

    What is mounted there already is kept, since running containers have it; files of an earlier
    daemon go, with any lock that a container may hold on them.
    """
    for path in (pipe.parent, pipe):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.chmod(0o755)  # a server takes on its client's user, and has to pass
    _mount(pipe)
    _empty(pipe, but=sealed.name)
    with _opened(pipe) as directory, suppress(FileExistsError):
        os.mkdir(sealed.name, 0o755, dir_fd=directory)
    label_for_containers(pipe)
    label_for_containers(sealed)


def seal(pipe: Path, sealed: Path) -> None:
    """Gives the socket of the daemon that listens now its second name. Blocks; raises OSError."""
    with _opened(pipe) as ours, _opened(sealed) as theirs:
        with suppress(FileNotFoundError):
            now = os.stat(CONTROL_SOCKET, dir_fd=theirs, follow_symlinks=False)
            if os.path.samestat(now, os.stat(CONTROL_SOCKET, dir_fd=ours, follow_symlinks=False)):
                return
        with suppress(FileNotFoundError):
            os.unlink(_FRESH, dir_fd=theirs)
        os.link(CONTROL_SOCKET, _FRESH, src_dir_fd=ours, dst_dir_fd=theirs, follow_symlinks=False)
        os.rename(_FRESH, CONTROL_SOCKET, src_dir_fd=theirs, dst_dir_fd=theirs)


def take_away(pipe: Path) -> None:
    """After the daemon's end. Containers that still have the directory keep it. Blocks."""
    try:
        if os.path.ismount(pipe):
            unmount(pipe)
    except OSError as error:
        log.warning("a pipe directory stays mounted", extra={"error": f"{pipe}: {error.strerror}"})


def _mount(pipe: Path) -> None:
    if os.path.ismount(pipe):
        return
    why = "mounts below it are not propagated to the host"
    try:
        if reaches_host(pipe):
            mount_tmpfs(pipe, f"mode=0755,{SIZE}{mount_option()}")
            return
    except OSError as error:
        why = str(error.strerror)
    log.warning(
        "the pipe directory has no file system of its own, so a container can fill the one that it "
        "is on; run the container privileged, with mountPropagation Bidirectional for --mps-root",
        extra={"directory": str(pipe), "error": why},
    )


def _empty(pipe: Path, but: str) -> None:
    with _opened(pipe) as directory:
        for name in os.listdir(directory):
            if name == but:
                continue
            try:
                os.unlink(name, dir_fd=directory)
            except IsADirectoryError:
                shutil.rmtree(name, ignore_errors=True, dir_fd=directory)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)
