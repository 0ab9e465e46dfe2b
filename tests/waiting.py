"""Waiting for a condition with a deadline: what tests do instead of sleeping."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 120.0
"""Seconds until a test gives up waiting; not how long anything may take. A machine that has much
else to do may be slow for a while, and where all is well nobody waits so long."""


async def eventually(
    probe: Callable[[], Awaitable[T]], what: str, *, seconds: float = DEADLINE, every: float = 0.02
) -> T:
    """The first truthy answer of `probe`; fails the test, naming `what`, after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = await probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last answer {value!r:.300}")
        await asyncio.sleep(every)
