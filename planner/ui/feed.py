"""Makes pictures while a reader is connected, at most five a second, and samples the last hour.

Without a reader, changes of the cluster cost nothing here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from planner.ui.history import EVERY, History, Sample
from planner.ui.picture import Picture, Row, node_rows, picture
from planner.ui.seen import Seen

PAUSE: Final = 0.2
"""Seconds between two pictures, in which changes are gathered."""

log = logging.getLogger(__name__)


class Feed:
    """`look` gives what the replica sees now, `stranded` the gb that no pod can use."""

    def __init__(
        self,
        look: Callable[[], Seen],
        stranded: Callable[[], int],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._look = look
        self._stranded = stranded
        self._clock = clock
        self._history = History()
        self._rows: Mapping[str, Row] = {}
        self._readers = 0
        self._dirty = asyncio.Event()
        self._published = asyncio.Event()
        self._newest: Picture | None = None

    def changed(self) -> None:
        """Called when the cluster or the planner's decision has changed."""
        if self._readers:
            self._dirty.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._draw())
            tasks.create_task(self._take_samples())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Counts a reader while inside."""
        self._readers += 1
        self._dirty.set()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._newest = None  # it gets old, and its memory is not needed

    async def newer(self, than: Picture | None, seconds: float) -> Picture | None:
        """Waits for a newer picture, or for so many seconds, and returns the newest.

        None before the first one.
        """
        if self._newest is than or (than is None and self._dirty.is_set()):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._published.wait()
        return self._newest

    async def _draw(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            with _told():
                before, history = self._newest or Picture(), self._history.samples
                # Beside the loop, as it takes a while when thousands wait; records do not change.
                self._newest = await asyncio.to_thread(picture, self._look(), history, before)
                published, self._published = self._published, asyncio.Event()
                published.set()
            await asyncio.sleep(PAUSE)

    async def _take_samples(self) -> None:
        while True:
            with _told():
                self._history.add(self._sample())
                self.changed()
            await asyncio.sleep(EVERY)

    def _sample(self) -> Sample:
        self._rows = node_rows(self._look(), self._rows)
        capacity = sum(row.capacity for row in self._rows.values())
        used = sum(row.used for row in self._rows.values())
        return Sample(round(self._clock()), used, capacity - used, self._stranded())


@contextmanager
def _told() -> Iterator[None]:
    """Logs what goes wrong inside: the planner goes on without its page."""
    try:
        yield
    except Exception:  # the planner goes on, whatever the error
        log.exception("the page could not be brought up to date")
