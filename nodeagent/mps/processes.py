"""Which processes are whose, from the kernel: control daemons that are no children of ours, and the
servers that a daemon left.

No file in a pipe directory is asked: containers mount that directory and may write there. What the
kernel keeps of a process is read as bytes, because a process may give itself any name.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nodeagent.mps.answers import BACKGROUND, FOREGROUND
from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM

_PROC: Final = Path("/proc")
_COMMAND_LENGTH: Final = 15  # of a process in /proc/PID/comm


def daemons_at(pipe: Path) -> tuple[int, ...]:
    """Control daemons of this pipe directory, looked for among all processes.

    Told by command line, environment and user, which are the same for drivers 535 to 615. A daemon
    may consist of more than one process.
    """
    return tuple(
        pid
        for pid in _processes(PROGRAM)
        if uid_of(pid) == os.geteuid()
        and _runs(pid, PROGRAM)
        and {FOREGROUND, BACKGROUND} & set(_command_line(pid))
        and _environment(pid).get("CUDA_MPS_PIPE_DIRECTORY") == str(pipe)
    )


def is_within(pid: int, ancestor: int) -> bool:
    """Whether a process is another one, or descends from it."""
    while pid not in (ancestor, 0):
        pid = _parent(pid)
    return pid == ancestor


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


def _runs(pid: int, program: str) -> bool:
    """Whether a process runs this program, by itself or through an interpreter."""
    return any(os.path.basename(word) == program for word in _command_line(pid)[:2])


def _command_line(pid: int) -> list[str]:
    try:
        return [os.fsdecode(w) for w in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []


def _parent(pid: int) -> int:
    """0 for a process that has ended, or that has no parent here."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return 0
    return int(stat.rpartition(b")")[2].split()[1])


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
