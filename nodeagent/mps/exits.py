"""Notice of a process's end the moment it ends, of processes that are no children of ours."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)


class Exits:
    """Calls `on_exit` when one of the watched processes ends. For one event loop."""

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._watched: dict[int, int] = {}

    def watch(self, pids: Iterable[int]) -> None:
        """Watches exactly these from now on; one that has ended already counts as ending now.

        One that cannot be watched is passed over: whoever asks looks every few seconds as well.
        """
        wanted = set(pids)
        for pid in self._watched.keys() - wanted:
            self._drop(pid)
        for pid in wanted - self._watched.keys():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                asyncio.get_running_loop().call_soon(self._on_exit)
                continue
            except OSError as error:  # a kernel before 5.3, or no descriptor left
                log.debug("its end will be seen late", extra={"pid": pid, "error": str(error)})
                continue
            self._watched[pid] = handle
            asyncio.get_running_loop().add_reader(handle, self._exited, pid)

    def _exited(self, pid: int) -> None:
        self._drop(pid)
        self._on_exit()

    def _drop(self, pid: int) -> None:
        handle = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


def signal_process(pid: int, number: int) -> bool:
    """Whether the process was still there to get the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
