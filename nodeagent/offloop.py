"""Blocking calls on a daemon thread of their own, with a deadline that holds even when they hang.

asyncio's own threads are waited for at the end of a program, so one call that a hung driver never
returns from would keep the process alive; these threads are not.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from nodeagent.errors import DriverHangs

T = TypeVar("T")

_Job = tuple["Future[Any]", Callable[[], Any]]


class OffLoop:
    """Makes the calls that it is given one after another; one thread for one concern.

    A call that is given up before its turn is never made.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, seconds: float, function: Callable[..., T], *arguments: object) -> T:
        """What the function returns or raises; DriverHangs when it has done neither in time."""
        self._start()
        future: Future[T] = Future()
        self._jobs.put((future, lambda: function(*arguments)))
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            what = getattr(function, "__name__", str(function)).strip("_")
            raise DriverHangs(
                f"the GPU driver has not answered {what} within {seconds:g} s; "
                "look for Xid and NVRM lines in the kernel's log"
            ) from None

    def post(self, function: Callable[[], object]) -> None:
        """Has it called in its turn; nobody waits, and what it raises is lost."""
        self._start()
        self._jobs.put((Future(), function))

    def close(self) -> None:
        """Ends the thread after what it is doing; nobody waits for that."""
        self._jobs.put(None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  it is raised where it is awaited
                future.set_exception(error)
