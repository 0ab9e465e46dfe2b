"""Keeps the MPS daemons of all GPUs as the agent's files want them, and never ends one by ending.

It holds a lock while it lives, so that two of them, as a rollout can bring about, do not quarrel.
"""

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NoReturn, TextIO

from mpslice.gpus import GpuUuid
from nodeagent.linux.inotify import DirectoryWatch
from nodeagent.mps.keeper import Keeper, Tools
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import (
    Status,
    Wanted,
    make_directories,
    read_statuses,
    read_wanted,
)

_LOCK_PAUSE: Final = 0.5

log = logging.getLogger(__name__)


async def supervise(tools: Tools) -> NoReturn:
    """Runs until cancelled; what it holds stays as it is then."""
    root = tools.root
    await asyncio.to_thread(make_directories, root)
    async with _alone(root):
        held = await asyncio.to_thread(_held_before, root)
        with DirectoryWatch(root.wanted) as watch:
            async with asyncio.TaskGroup() as tasks:
                supervisor = _Supervisor(tools, tasks, held)
                while True:
                    await supervisor.read_again()
                    await watch.next()


class _Supervisor:
    """One keeper for each GPU that is wanted, or that an earlier supervisor held."""

    def __init__(
        self, tools: Tools, tasks: asyncio.TaskGroup, held: Mapping[GpuUuid, Status | None]
    ) -> None:
        self._tools = tools
        self._tasks = tasks
        self._wanted: dict[GpuUuid, Wanted] = {}
        self._keepers: dict[GpuUuid, Keeper] = {}
        self._held_before = dict(held)

    async def read_again(self) -> None:
        """Takes over what the agent's files say now."""
        found, problems = await asyncio.to_thread(read_wanted, self._tools.root.wanted)
        for problem in problems:
            log.error("what is wanted of a GPU stays as it was", extra={"error": str(problem)})
            if problem.gpu in self._wanted:
                found[problem.gpu] = self._wanted[problem.gpu]
        self._wanted = found
        unreadable = {problem.gpu for problem in problems}
        for gpu in {*found, *self._keepers, *self._held_before} - unreadable | found.keys():
            self._want(gpu, found.get(gpu))

    def _want(self, gpu: GpuUuid, wanted: Wanted | None) -> None:
        keeper = self._keepers.get(gpu)
        if keeper is not None:
            keeper.want(wanted)
            return
        self._keepers[gpu] = Keeper(gpu, wanted, self._tools, self._held_before.pop(gpu, None))
        self._tasks.create_task(self._keep(gpu), name=f"keep {gpu}")

    async def _keep(self, gpu: GpuUuid) -> None:
        while True:
            await self._keepers[gpu].run()
            wanted = self._wanted.get(gpu)
            if wanted is None:
                del self._keepers[gpu]
                return
            self._keepers[gpu] = Keeper(gpu, wanted, self._tools, None)  # wanted once more


def _held_before(root: MpsRoot) -> dict[GpuUuid, Status | None]:
    """Every GPU that an earlier supervisor may hold something of, and what it last said of it."""
    said, _ = read_statuses(root.status)
    return {gpu: said.get(gpu) for gpu in (*root.gpus(), *said)}


@asynccontextmanager
async def _alone(root: MpsRoot) -> AsyncIterator[None]:
    """Waits until no other supervisor works here; the kernel lets go when a process ends."""
    with root.lock.open("w") as lock:
        told = False
        while not _locked(lock):
            if not told:
                log.warning("another supervisor keeps the daemons; waiting for its end")
                told = True
            await asyncio.sleep(_LOCK_PAUSE)
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
