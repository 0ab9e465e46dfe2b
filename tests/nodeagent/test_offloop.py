"""A call that hangs costs its caller the deadline, and nobody else anything."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from nodeagent.errors import DriverHangs
from nodeagent.offloop import OffLoop


@pytest.fixture
def thread() -> Iterator[OffLoop]:
    thread = OffLoop("test")
    yield thread
    thread.close()


async def test_result_and_error_come_back(thread: OffLoop) -> None:
    assert await thread.call(5, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await thread.call(5, divmod, 7, 0)


async def test_hung_call_is_given_up_and_the_loop_goes_on(thread: OffLoop) -> None:
    let_go = threading.Event()
    with pytest.raises(DriverHangs, match="has not answered wait within"):
        await thread.call(0.02, let_go.wait)
    let_go.set()
    assert await thread.call(5, abs, -1) == 1


async def test_call_that_was_given_up_before_its_turn_is_never_made(thread: OffLoop) -> None:
    let_go = threading.Event()
    made: list[str] = []
    first = asyncio.ensure_future(thread.call(5, let_go.wait))
    await asyncio.sleep(0)
    with pytest.raises(DriverHangs):
        await thread.call(0.02, made.append, "late")
    let_go.set()
    await first
    await thread.call(5, abs, -1)
    assert made == []


async def test_thread_that_hangs_does_not_keep_the_program_alive(thread: OffLoop) -> None:
    await thread.call(5, abs, -1)
    assert [t.daemon for t in threading.enumerate() if t.name == "test"] == [True]
