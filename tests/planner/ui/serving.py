"""The page's real server in a test, on a cluster that the test changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mpslice.flags import Address
from planner.ui.access import Access, Reviews
from planner.ui.feed import Feed
from planner.ui.seen import Seen
from planner.ui.server import serve_page


@dataclass
class Served:
    """`seen` is what the replica sees; `looked` counts how often the page asked for it."""

    seen: Seen
    address: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    looked: int = 0
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        self.feed = Feed(self._look, lambda: 12)

    def _look(self) -> Seen:
        self.looked += 1
        return self.seen

    def change(self, seen: Seen) -> None:
        self.seen = seen
        self.feed.changed()

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@asynccontextmanager
async def served(seen: Seen, reviews: Reviews) -> AsyncIterator[Served]:
    """The page of what is seen, while inside."""
    page = Served(seen)
    async with serve_page(page.address, Access(reviews), page.feed) as address:
        page.address = address
        running = asyncio.create_task(page.feed.run())
        try:
            yield page
        finally:
            running.cancel()
            await asyncio.wait({running})
