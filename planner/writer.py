"""Carries out the newest decision, object by object, so that a slow write holds up no other.

A decision replaces what the one before had not begun; an object that is being written is left out
until the answer is there, and decided upon again. What failed rests for a while, each on its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from mpslice.kube.reflector import Backoff
from planner.actions import Action, Key
from planner.bucket import TokenBucket

AT_ONCE: Final = 16
"""Writes under way that pods wait for, and as many others."""

_LONGEST_REST: Final = 10.0  # seconds
_REMEMBERED: Final = 60.0  # seconds after its rest until an object's failures are forgotten

Write = Callable[[Action], Awaitable[bool]]
"""Whether it worked; it has a deadline of its own and does not raise."""


@dataclass(slots=True)
class _Rest:
    """An object whose last write failed."""

    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.02, longest=_LONGEST_REST))
    until: float = 0.0


class Writer:
    """Writes in tasks of `tasks`; `again` asks for a new decision. Close it before `tasks` end."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        write: Write,
        again: Callable[[], None],
        bucket: TokenBucket,
    ) -> None:
        self._tasks = tasks
        self._write = write
        self._again = again
        self._bucket = bucket
        self._urgent: dict[Key, Action] = {}
        self._others: dict[Key, Action] = {}
        self._flying: dict[Key, Action] = {}
        self._overtaken: set[Key] = set()
        self._resting: dict[Key, _Rest] = {}
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, actions: Iterable[Action]) -> None:
        """Begins what may begin now; the rest follows unless the next decision says otherwise."""
        now = time.monotonic()
        self._forget_old_failures(now)
        self._urgent.clear()
        self._others.clear()
        for action in actions:
            flying = self._flying.get(action.key)
            if flying is not None:
                if flying != action:
                    self._overtaken.add(action.key)
            elif not self._rests(action.key, now):
                (self._urgent if action.urgent else self._others).setdefault(action.key, action)
        self._pump()

    def close(self) -> None:
        """Nothing more is begun."""
        self._urgent.clear()
        self._others.clear()

    def _rests(self, key: Key, now: float) -> bool:
        rest = self._resting.get(key)
        return rest is not None and rest.until > now

    def _forget_old_failures(self, now: float) -> None:
        old = [key for key, rest in self._resting.items() if rest.until + _REMEMBERED < now]
        for key in old:
            del self._resting[key]

    def _pump(self) -> None:
        for queue in (self._urgent, self._others):
            places = AT_ONCE - self._under_way(urgent=queue is self._urgent)
            while queue and places > 0:
                wait = self._bucket.take(time.monotonic())
                if wait > 0:
                    self._pump_after(wait)
                    return
                key = next(iter(queue))
                self._flying[key] = queue.pop(key)
                self._tasks.create_task(self._carry_out(key, self._flying[key]))
                places -= 1

    def _under_way(self, *, urgent: bool) -> int:
        return sum(action.urgent == urgent for action in self._flying.values())

    def _pump_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._pump)

    async def _carry_out(self, key: Key, action: Action) -> None:
        worked = await self._write(action)
        del self._flying[key]
        if worked:
            self._resting.pop(key, None)
        else:
            self._let_rest(key)
        if key in self._overtaken:
            self._overtaken.discard(key)
            self._again()
        self._pump()

    def _let_rest(self, key: Key) -> None:
        rest = self._resting.setdefault(key, _Rest())
        delay = rest.backoff.delay()
        rest.until = time.monotonic() + delay
        asyncio.get_running_loop().call_later(delay, self._again)
