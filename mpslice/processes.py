"""How a program runs: one coroutine until it ends or a SIGTERM asks it to."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from mpslice.errors import MpsliceError


def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`; SIGTERM and SIGINT cancel it, which is an orderly end.

    An MpsliceError from anywhere inside it, a TaskGroup too, is raised as such.
    """
    asyncio.run(_until_signal(work))


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return
    except BaseExceptionGroup as group:
        expected = group.subgroup(MpsliceError)
        if expected is None:
            raise
        raise _first(expected) from group


def _first(group: BaseExceptionGroup[MpsliceError]) -> MpsliceError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
