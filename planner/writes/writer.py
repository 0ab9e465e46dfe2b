"""Carries out the newest decision, object by object, so that a slow write holds up no other.

An object that is being written is left out until the answer is there, and decided upon again if
more is wanted of it. Layouts are one plan on many objects: what of it is not written yet stays
intended, and the next decision has to start from there. What failed rests, each on its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mpslice.kube.reflector import Backoff
from planner.writes.actions import Action, Key, Ungate, WriteSpec
from planner.writes.bucket import TokenBucket

AT_ONCE: Final = 16
"""Writes under way that pods wait for, and as many others."""

_LONGEST_REST: Final = 10.0  # seconds
_REMEMBERED: Final = 60.0  # seconds after its rest until an object's failures are forgotten
_UNSEEN: Final = 1.0  # seconds in which the watch shows what was written

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
        self._done: dict[Key, tuple[Action, float]] = {}
        self._resting: dict[Key, _Rest] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._recheck: asyncio.TimerHandle | None = None

    @property
    def intended(self) -> Iterator[WriteSpec]:
        """Layouts that are being written or will be, unless a decision says otherwise."""
        for action in (*self._flying.values(), *self._others.values()):
            if isinstance(action, WriteSpec):
                yield action

    @property
    def ungating(self) -> frozenset[str]:
        """The uids of pods whose gate is being taken away."""
        return frozenset(a.pod.uid for a in self._flying.values() if isinstance(a, Ungate))

    @property
    def going(self) -> frozenset[str]:
        """The uids of pods whose gate is taken away next, also while a decision is made."""
        return frozenset(a.pod.uid for a in self._urgent.values() if isinstance(a, Ungate))

    def submit(self, actions: Iterable[Action]) -> None:
        """Begins what may begin now; the rest follows unless the next decision says otherwise.

        That decision may take long: what was decided goes on meanwhile.
        """
        now = time.monotonic()
        self._forget(now)
        self._urgent.clear()
        self._others = {k: a for k, a in self._others.items() if isinstance(a, WriteSpec)}
        for action in actions:
            if not self._has_to_wait(action, now):
                (self._urgent if action.urgent else self._others)[action.key] = action
        self._pump()

    def close(self) -> None:
        """Nothing more is begun."""
        self._urgent.clear()
        self._others.clear()

    def _has_to_wait(self, action: Action, now: float) -> bool:
        """Whether the object is being written or rests, or the watch has yet to show the write."""
        key = action.key
        flying = self._flying.get(key)
        if flying is not None:
            if flying != action:
                self._overtaken.add(key)
            return True
        if key in self._resting and self._resting[key].until > now:
            return True
        if key in self._done and self._done[key][0] == action:
            self._look_again()
            return True
        return False

    def _look_again(self) -> None:
        """Should what was written have been undone at once, the watch may show nothing new."""
        if self._recheck is None:
            self._recheck = asyncio.get_running_loop().call_later(_UNSEEN, self._rechecked)

    def _rechecked(self) -> None:
        self._recheck = None
        self._again()

    def _forget(self, now: float) -> None:
        for key in [key for key, rest in self._resting.items() if rest.until + _REMEMBERED < now]:
            del self._resting[key]
        for key in [key for key, (_, at) in self._done.items() if at + _UNSEEN < now]:
            del self._done[key]

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
        try:
            worked = await self._write(action)
        except BaseException:
            self.close()  # the tasks end, and take no more
            raise
        del self._flying[key]
        if worked:
            self._resting.pop(key, None)
            self._done[key] = action, time.monotonic()
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
