"""Virtual time: an event loop whose clock is put forward to what is due next, and never waits.

Everything of ours that reads a clock reads this one while `virtual_time` lasts; threads' work is
done at once. So the same seed gives the same run, whatever the machine does meanwhile.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from types import ModuleType, SimpleNamespace
from typing import Any, Final

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""The wall clock at the begin of a run."""

_BEGIN: Final = 1_000.0  # of the monotonic clock, which is never near 0 on a machine
_OURS: Final = ("mpslice", "planner", "nodeagent", "webhook")


class Clock:
    """`seconds` on the monotonic clock."""

    def __init__(self) -> None:
        self.seconds = _BEGIN

    @property
    def passed(self) -> float:
        """Seconds since the run began."""
        return self.seconds - _BEGIN

    @property
    def wall(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    def stamp(self) -> str:
        """The wall clock as Kubernetes writes it."""
        return self.wall.strftime("%Y-%m-%dT%H:%M:%SZ")


class Standstill(Exception):
    """Nothing is due and nothing ever will be, while something is waited for."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without files and sockets."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._selector = self  # of which the base class asks `select` alone

    def time(self) -> float:
        return self._clock.seconds

    def select(self, timeout: float | None) -> list[Any]:
        """Where others wait, the clock is put forward."""
        if timeout is None:
            raise Standstill
        self._clock.seconds += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def run_in_executor(  # type: ignore[override]  # its variadic types
        self, executor: Any, func: Callable[..., Any], *arguments: Any
    ) -> "asyncio.Future[Any]":
        future = self.create_future()
        try:
            future.set_result(func(*arguments))
        except Exception as error:  # noqa: BLE001  # whoever awaits it gets it
            future.set_exception(error)
        return future


@contextmanager
def virtual_time(clock: Clock, seed: int) -> Iterator[VirtualLoop]:
    """The loop of a run. At its end every task is cancelled."""
    state = random.getstate()
    random.seed(seed)
    loop = VirtualLoop(clock)
    replaced = _clocks(clock)
    try:
        asyncio.set_event_loop(loop)
        for module, name, value in replaced:
            setattr(module, name, value[1])
        yield loop
    finally:
        _end(loop)
        for module, name, value in replaced:
            setattr(module, name, value[0])
        asyncio.set_event_loop(None)
        random.setstate(state)


def _end(loop: VirtualLoop) -> None:
    for _ in range(10):  # a task may begin others when it is cancelled
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=60))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _clocks(clock: Clock) -> list[tuple[ModuleType, str, tuple[Any, Any]]]:
    """What our modules know of the time: where, by which name, and what stands in for it."""

    def monotonic() -> float:
        return clock.seconds

    def unix() -> float:
        return clock.wall.timestamp()

    class VirtualDatetime(datetime, metaclass=_AnyDatetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return clock.wall.astimezone(tz)

    functions = {"monotonic": monotonic, "perf_counter": monotonic, "time": unix}
    module = SimpleNamespace(**functions)
    instead: dict[int, Any] = {id(time): module, id(datetime): VirtualDatetime}
    instead |= {id(getattr(time, name)): function for name, function in functions.items()}
    return [
        (module_, name, (value, instead[id(value)]))
        for module_name, module_ in sorted(sys.modules.items())
        if module_name.partition(".")[0] in _OURS
        for name, value in sorted(vars(module_).items())
        if id(value) in instead
    ]


class _AnyDatetime(type):
    """Every datetime counts as one of the class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


__all__ = ["START", "Clock", "Standstill", "VirtualLoop", "virtual_time"]
