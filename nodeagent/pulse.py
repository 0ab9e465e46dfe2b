"""Waking whoever waits for a state to change, without losing a change that comes in between."""

import asyncio
from collections.abc import Callable


class Pulse:
    """Counts changes. A waiter that passes the count it has seen never misses one."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, callback: Callable[[], None]) -> None:
        """Calls `callback` at every beat; it must not raise."""
        self._listeners.append(callback)

    def beat(self) -> None:
        """Something changed: wakes all waiters."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()
        for callback in self._listeners:
            callback()

    async def after(self, seen: int) -> int:
        """Waits until the count is higher than `seen`, and returns it."""
        while self.count <= seen:
            await self._next.wait()
        return self.count

    async def within(self, seen: int, seconds: float) -> bool:
        """Whether it beat after `seen` within so many seconds; returns as soon as it has."""
        try:
            async with asyncio.timeout(seconds):
                await self.after(seen)
        except TimeoutError:
            return False
        return True
