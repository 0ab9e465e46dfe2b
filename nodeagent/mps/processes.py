"""Which processes are whose, from the kernel: a GPU's control daemon and the servers it left.

The pid file in the pipe directory is not believed: containers mount that directory, and every user
may write the file. The lock that the daemon holds there is the kernel's word for its process. All
is read as bytes, because a process may give itself any name.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM

LOCK: Final = "control_lock"
"""What the daemon holds an fcntl(2) lock on, in its pipe directory, while it lives."""

_PROC: Final = Path("/proc")
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux
_COMMAND_LENGTH: Final = 15  # of a process in /proc/PID/comm


def daemon_of(pipe: Path, gpu: str) -> int | None:
    """The control daemon that serves a GPU in this pipe directory, None when there is none.

    It has to hold the lock, to run as we do, and to have been started for this directory and GPU.
    """
    pid = _lock_holder(pipe / LOCK)
    if pid is None or uid_of(pid) != os.geteuid() or not _runs(pid, PROGRAM):
        return None
    environment = _environment(pid)
    ours = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_VISIBLE_DEVICES": gpu}
    return pid if ours.items() <= environment.items() else None


def servers_left(pipe: Path) -> tuple[int, ...]:
    """Servers of this pipe directory, looked for among all processes.

    They outlive a daemon that was killed, serve nobody any more and keep the GPU from a new server.
    """
    return tuple(
        pid
        for pid in _processes(SERVER_PROGRAM)
        if is_server(pid) and _environment(pid).get("CUDA_MPS_PIPE_DIRECTORY") == str(pipe)
    )


def is_server(pid: int) -> bool:
    """Whether the process is an MPS server, of whatever pipe directory."""
    return _runs(pid, SERVER_PROGRAM)


def uid_of(pid: int) -> int | None:
    """The effective user of a process, None when it has ended."""
    try:
        lines = (_PROC / str(pid) / "status").read_bytes().splitlines()
    except OSError:
        return None
    fields = next((line.split() for line in lines if line.startswith(b"Uid:")), [])
    return int(fields[2]) if len(fields) > 2 else None


def _lock_holder(path: Path) -> int | None:
    """Who holds a write lock on a file; None also for a process of another PID namespace."""
    try:
        with path.open("rb") as file:
            question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return None
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def _runs(pid: int, program: str) -> bool:
    """Whether a process runs this program, by itself or through an interpreter."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:2]
    except OSError:
        return False
    return any(os.path.basename(word) == program.encode() for word in words)


def _environment(pid: int) -> dict[str, str]:
    try:
        entries = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def _processes(program: str) -> Iterator[int]:
    """Processes whose short name may be the program's."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "comm").read_bytes().rstrip(b"\n")
            except OSError:
                continue
            if command == program[:_COMMAND_LENGTH].encode():
                yield int(entry.name)
