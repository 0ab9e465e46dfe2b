"""Virtual time passes at once, in order, and for all of our modules."""

import asyncio
import threading
import time

import pytest

from mpslice.kube import reflector
from planner import controller
from tests.simulation.clock import START, Clock, Standstill, virtual_time


def test_sleeping_takes_no_time_and_ends_in_order() -> None:
    clock, ended = Clock(), list[float]()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(clock.passed)

    async def main() -> None:
        await asyncio.gather(*map(sleep, (7200.0, 3600.0, 0.5)))

    began = time.monotonic()
    with virtual_time(clock, 1) as loop:
        loop.run_until_complete(main())
    assert ended == pytest.approx([0.5, 3600.0, 7200.0])
    assert time.monotonic() - began < 60


def test_modules_read_the_virtual_clock_until_the_run_ends() -> None:
    clock = Clock()

    with virtual_time(clock, 1) as loop:
        loop.run_until_complete(asyncio.sleep(60))
        assert vars(reflector)["time"].monotonic() == clock.seconds
        assert (controller.utc_now() - START).total_seconds() == pytest.approx(60)
    assert vars(reflector)["time"] is time
    assert abs(controller.utc_now().timestamp() - time.time()) < 60


def test_work_for_threads_is_done_at_once() -> None:
    with virtual_time(Clock(), 1) as loop:
        thread = loop.run_until_complete(asyncio.to_thread(threading.current_thread))
        assert thread is threading.current_thread()


def test_waiting_for_what_never_comes_is_told() -> None:
    with virtual_time(Clock(), 1) as loop:
        waiting = loop.create_task(asyncio.Event().wait())
        with pytest.raises(Standstill):
            loop.run_until_complete(waiting)
