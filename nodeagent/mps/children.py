"""The control daemons as children of the reaper: it starts them, and says which of them live.

Runs in the container's first process, so it imports little. The kernel itself ties a daemon's life
to that process: it ends with it.
"""

import json
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mpslice.errors import MpsliceError
from nodeagent.linux.libc import call

log = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
"""The signals that the reaper takes by itself, and that its children have as usual."""

_CANNOT_WRITE: Final = 126
_CANNOT_RUN: Final = 127

# <sys/prctl.h>
_PARENT_DEATH_SIGNAL: Final = 1
_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run; `output` is the file that gets what it prints."""

    words: Sequence[str]
    environment: Mapping[str, str]
    output: Path


class Children:
    """The daemons, by GPU. `command` tells how to start one and may raise an MpsliceError."""

    def __init__(self, command: Callable[[str], Command]) -> None:
        self._command = command
        self._living: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def answer(self, request: bytes) -> bytes:
        """Does what the supervisor asks, and tells which daemons live and how others ended.

        A request is `{"id": 1, "do": "start", "gpu": "GPU-…"}`; `do` is `list`, `start`, or `kill`
        with a number as `signal`.
        """
        words: dict[str, Any] = json.loads(request)
        error = ""
        try:
            match words["do"]:
                case "start":
                    self._start(words["gpu"])
                case "kill":
                    self._kill(words["gpu"], words["signal"])
        except (MpsliceError, OSError) as problem:
            error = str(problem)
        reply = {
            "id": words["id"],
            "reaper": os.getpid(),
            "living": self._living,
            "ended": self._ended,
            "error": error,
        }
        return json.dumps(reply).encode()

    def ended(self, pid: int, status: int) -> None:
        """Takes note that a process has ended, and was waited for."""
        for gpu in [gpu for gpu, living in self._living.items() if living == pid]:
            del self._living[gpu]
            self._ended[gpu] = status
            log.warning("an MPS control daemon has ended", extra={"gpu": gpu, "status": status})

    def _start(self, gpu: str) -> None:
        """A daemon that lives is left as it is, so that a request may be repeated."""
        if gpu not in self._living:
            command = self._command(gpu)
            self._living[gpu] = fork(lambda: _execute(command))
            self._ended.pop(gpu, None)

    def _kill(self, gpu: str, number: int) -> None:
        """A child keeps its PID until it is waited for, so no other process gets the signal."""
        if gpu in self._living:
            os.kill(self._living[gpu], number)


def _execute(command: Command) -> int:
    """Becomes the program; returns only when that fails."""
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        output = os.open(command.output, flags, 0o644)
    except OSError:
        return _CANNOT_WRITE
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    os.chdir("/")
    try:
        os.execve(  # noqa: S606  there is nothing in it for a shell
            command.words[0], list(command.words), dict(command.environment)
        )
    except OSError as error:
        os.write(output, f"{command.words[0]}: {error.strerror}\n".encode())
        return _CANNOT_RUN


def fork(work: Callable[[], int]) -> int:
    """Runs `work` in a process that the kernel kills when this one ends; its PID.

    Raises OSError when the machine has no process left.
    """
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        child = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        raise
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child
    status = _CANNOT_RUN
    try:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        call("prctl", _PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            status = work()
    except BaseException:  # nothing may get past here, into the parent's code
        log.exception("a child of the reaper has failed")
    finally:
        logging.shutdown()
        os._exit(status)


def take_orphans() -> None:
    """Processes whose parents have ended become children of this one."""
    call("prctl", _SUBREAPER, 1, 0, 0, 0)
