"""Stopping a process as SIGSTOP does, and knowing that it has stopped."""

import os
import signal
import time
from pathlib import Path

from tests.waiting import DEADLINE


def freeze(pid: int) -> None:
    """Returns when none of its threads runs any more.

    The signal is taken by a thread that has to run for that, which it may have to wait for, and
    the others run until then.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE
    while not _is_frozen(pid):
        assert time.monotonic() < deadline, f"process {pid} goes on"
        time.sleep(0.005)


def thaw(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def _is_frozen(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()
    states = [(each / "stat").read_text().rpartition(")")[2].split()[0] for each in threads]
    return set(states) == {"T"}
