"""The first process of the supervisor's container: reaps, restarts the supervisor, ends last.

Daemons become its children when whoever started them is gone, and the container with all of them
lives as long as it does; so it does as little as possible and imports nothing that could fail.
"""

import ctypes
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Final

REFUSED: Final = 1
"""The status of a supervisor that cannot work on this machine; it has said why."""

_BROKEN: Final = 70  # sysexits.h
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_SHORT_LIFE: Final = 10.0  # seconds; one that lived longer is restarted at once
_LEAST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_FINISH_SECONDS: Final = 15.0

# <sys/prctl.h>
_PARENT_DEATH_SIGNAL: Final = 1
_SUBREAPER: Final = 36

Work = Callable[[], int]
"""Runs in a process of its own; the exit status."""

log = logging.getLogger(__name__)


class Reaper:
    """`run` until a signal asks for the end and no process is left, or the kernel ends it all."""

    def __init__(self, supervise: Work, finish: Work) -> None:
        self._supervise = supervise
        self._finish = finish
        self._child = 0
        self._status = 0
        self._asked = False

    def run(self) -> int:
        """The exit status of the container."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        _prctl(_SUBREAPER, 1)
        pause = 0.0
        while not self._asked:
            started = monotonic()
            if not self._start(self._supervise):
                pause = _longer(pause)
                self._sleep(pause)
                continue
            log.info("the supervisor has started", extra={"pid": self._child})
            alone = self._wait(until=None)
            if self._asked:
                break
            if self._status == REFUSED and alone:
                return REFUSED
            pause = 0.0 if monotonic() - started > _SHORT_LIFE else _longer(pause)
            log.error(
                "the supervisor has ended and is started again; the daemons live on",
                extra={"status": self._status, "delay_seconds": pause},
            )
            self._sleep(pause)
        return self._end()

    def _end(self) -> int:
        """What of the GPUs can be handed back before the container's end is, daemons are left."""
        if self._child:
            os.kill(self._child, signal.SIGTERM)
            self._wait(until=monotonic() + _FINISH_SECONDS)
        until = monotonic() + _FINISH_SECONDS
        while not self._start(self._finish) and monotonic() < until:
            time.sleep(_LEAST_PAUSE)
        alone = self._wait(until=until) or self._reap()
        while not alone:
            signal.sigwait(_SIGNALS)
            alone = self._reap()
        return 0

    def _start(self, work: Work) -> bool:
        """Whether there is a process for it; a machine may have none left for a moment."""
        try:
            self._child = _spawn(work)
        except OSError as error:
            log.error("no process can be started", extra={"error": str(error)})
            return False
        return True

    def _wait(self, until: float | None) -> bool:
        """Until the child has ended, or the end is asked for; whether no process is left then."""
        asked_before, alone = self._asked, False
        while self._child and self._asked == asked_before:
            left = 3600.0 if until is None else until - monotonic()
            if left <= 0:
                break
            self._take(signal.sigtimedwait(_SIGNALS, left))
            alone = self._reap()
        return alone

    def _sleep(self, seconds: float) -> None:
        until = monotonic() + seconds
        while not self._asked and (left := until - monotonic()) > 0:
            self._take(signal.sigtimedwait(_SIGNALS, left))
            self._reap()

    def _take(self, info: signal.struct_siginfo | None) -> None:
        if info is not None and info.si_signo != signal.SIGCHLD:
            self._asked = True

    def _reap(self) -> bool:
        """Takes note of every process that has ended; whether none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._child:
                self._child, self._status = 0, os.waitstatus_to_exitcode(status)


def _longer(pause: float) -> float:
    return min(_LONGEST_PAUSE, max(_LEAST_PAUSE, pause * 2))


def _spawn(work: Work) -> int:
    """Runs `work` in a process that does not outlive this one; its PID."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = _BROKEN
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == parent:
            status = work()
    except BaseException:  # noqa: BLE001  nothing may get past here, into the parent's code
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(status)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
