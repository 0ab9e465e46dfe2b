"""A process's end is noticed, and one that cannot be watched is no reason to look all the time."""

import asyncio
import errno
import os

import pytest

from nodeagent.mps.exits import Exits
from tests.waiting import DEADLINE


async def test_end_is_noticed_at_once() -> None:
    ended = asyncio.Event()
    exits = Exits(ended.set)
    process = await asyncio.create_subprocess_exec("sleep", "60")
    exits.watch([process.pid])
    process.kill()
    await asyncio.wait_for(ended.wait(), DEADLINE)
    await process.wait()


async def test_one_that_has_ended_already_counts_as_ending_now() -> None:
    ended = asyncio.Event()
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    Exits(ended.set).watch([process.pid])
    await asyncio.wait_for(ended.wait(), DEADLINE)


async def test_one_that_cannot_be_watched_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of at once it would be looked at, watched again, and told of again, without end."""

    def too_old(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", too_old)
    told: list[str] = []
    Exits(lambda: told.append("ended")).watch([os.getpid()])
    await asyncio.sleep(0)
    assert told == []
