"""The first process of the supervisor's container: starts the daemons, restarts the supervisor.

Daemons are its children and end with it; so it does as little as possible and imports nothing that
could fail. The supervisor speaks to it through a socket that it inherits and that has no name, so
nobody else can.
"""

import logging
import os
import select
import signal
import socket
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final

from nodeagent.mps.children import SIGNALS, Children, fork, take_orphans

REFUSED: Final = 1
"""The status of a supervisor that cannot work on this machine; it has said why."""

OOM_SCORE_ADJ: Final = -998
"""What the kubelet gives its most critical containers is -997 (kubelet/qos/policy.go)."""

_SHORT_LIFE: Final = 10.0  # seconds; one that lived longer is restarted at once
_LEAST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_FINISH_SECONDS: Final = 15.0
_LONGEST_REQUEST: Final = 4096  # bytes
_LONG: Final = 3600.0

Work = Callable[[socket.socket], int]
"""Runs in a process of its own, with its end of the socket to the reaper; the exit status."""

log = logging.getLogger(__name__)


class Reaper:
    """`run` until a signal asks for the end and no process is left, or the kernel ends it all."""

    def __init__(self, supervise: Work, finish: Work, children: Children) -> None:
        self._supervise = supervise
        self._finish = finish
        self._children = children
        self._line: socket.socket | None = None
        self._wake = -1
        self._child = 0
        self._status = 0
        self._asked = False

    def run(self) -> int:
        """The exit status of the container."""
        self._catch_signals()
        take_orphans()
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

    def _catch_signals(self) -> None:
        """Each signal writes its number into a pipe, which is waited for beside the socket."""
        self._wake, write = os.pipe()
        for file in (self._wake, write):
            os.set_blocking(file, False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def _end(self) -> int:
        """Hands back what it can of the GPUs before the container's end, while daemons are left."""
        if self._child:
            os.kill(self._child, signal.SIGTERM)
            self._wait(until=monotonic() + _FINISH_SECONDS)
        until = monotonic() + _FINISH_SECONDS
        while not self._start(self._finish) and monotonic() < until:
            sleep(_LEAST_PAUSE)
        alone = self._wait(until=until) or self._reap()
        while not alone:
            self._turn(_LONG)
            alone = self._reap()
        return 0

    def _start(self, work: Work) -> bool:
        """Whether there is a process for it; a machine may have none left for a moment."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._child = fork(lambda: work(theirs))
        except OSError as error:
            log.error("no process can be started", extra={"error": str(error)})
            ours.close()
            return False
        finally:
            theirs.close()
        self._hang_up()
        self._line = ours
        return True

    def _wait(self, until: float | None) -> bool:
        """Until the child has ended, or the end is asked for; whether no process is left then."""
        asked_before, alone = self._asked, False
        while self._child and self._asked == asked_before:
            left = _LONG if until is None else until - monotonic()
            if left <= 0:
                break
            self._turn(left)
            alone = self._reap()
        return alone

    def _sleep(self, seconds: float) -> None:
        until = monotonic() + seconds
        while not self._asked and (left := until - monotonic()) > 0:
            self._turn(left)
            self._reap()

    def _turn(self, seconds: float) -> None:
        """Waits for a signal or a request, and answers the request."""
        files = [self._wake, *([] if self._line is None else [self._line.fileno()])]
        ready, _, _ = select.select(files, [], [], seconds)
        if self._wake in ready:
            numbers = os.read(self._wake, 512)
            self._asked = self._asked or any(number != signal.SIGCHLD for number in numbers)
        if self._line is not None and self._line.fileno() in ready:
            self._reap()  # so that the answer is of this moment
            self._answer(self._line)

    def _answer(self, line: socket.socket) -> None:
        try:
            request = line.recv(_LONGEST_REQUEST)
            if request:
                line.send(self._children.answer(request))
                return
        except OSError as error:
            log.error("the supervisor gets no answer", extra={"error": str(error)})
        self._hang_up()

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _reap(self) -> bool:
        """Takes note of every process that has ended; whether none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            code = os.waitstatus_to_exitcode(status)
            if pid == self._child:
                self._child, self._status = 0, code
            self._children.ended(pid, code)


def keep_from_oom() -> None:
    """Daemons and servers inherit it. Memory pressure then ends them after everything else."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(OOM_SCORE_ADJ))
    except OSError as error:
        log.warning("MPS daemons may be ended for memory", extra={"error": str(error)})


def _longer(pause: float) -> float:
    return min(_LONGEST_PAUSE, max(_LEAST_PAUSE, pause * 2))
