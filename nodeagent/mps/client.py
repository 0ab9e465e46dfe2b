"""The agent's side of MPS, through the supervisor's files: the real `MpsControl`.

A supervisor that is away for a moment changes nothing; one that has not been heard of for long
counts as a daemon that is down, because no container would get one.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, NoReturn

from mpslice.gpus import GpuUuid
from nodeagent.errors import AgentError
from nodeagent.hardware import Backstop, MpsHealth
from nodeagent.linux.inotify import DirectoryWatch
from nodeagent.mps.errors import MpsRootUnwritable
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import (
    MpsState,
    Status,
    Wanted,
    make_directories,
    read_statuses,
    read_wanted,
    remove_record,
    seconds_since_boot,
    write_record,
)
from nodeagent.mps.shm import identity
from nodeagent.pulse import Pulse

MPS_DOWN: Final = "MpsDown"
MPS_FAULT: Final = "MpsFault"
MPS_WRONG_USER: Final = "MpsWrongUser"

STALE_SECONDS: Final = 45.0
"""A supervisor looks every 10 s, and at a hung daemon a little longer."""

_REASONS: Final = {
    MpsState.DOWN: MPS_DOWN,
    MpsState.FAULT: MPS_FAULT,
    MpsState.WRONG_USER: MPS_WRONG_USER,
}
_AWAY: Final = "its MPS supervisor does not answer; see the pods of the DaemonSet mps"

log = logging.getLogger(__name__)


def judge(status: Status | None, silent_seconds: float) -> MpsHealth:
    """How a daemon fares by what was last said of it, and how long ago that is."""
    restarts = status.restarts if status else 0
    if silent_seconds > STALE_SECONDS:
        return MpsHealth(ready=False, reason=MPS_DOWN, detail=_AWAY, restarts=restarts)
    if status is None:
        return MpsHealth(ready=False, detail="its MPS daemon is not started yet")
    return MpsHealth(
        ready=status.state is MpsState.READY,
        reason=_REASONS.get(status.state),
        detail=status.message,
        restarts=restarts,
    )


class MpsFiles:
    """See `MpsControl`. `load` first."""

    def __init__(self, root: MpsRoot, *, host_ipc: bool) -> None:
        self.changed = Pulse()
        self._root = root
        self._host_ipc = host_ipc
        self._wanted: dict[GpuUuid, Wanted] = {}
        self._asked: dict[GpuUuid, float] = {}
        self._statuses: dict[GpuUuid, Status] = {}
        self._told: Mapping[GpuUuid, MpsHealth] = {}
        self._writing = asyncio.Lock()
        self._life = secrets.token_hex(4)
        self._checks = count(1)

    async def load(self) -> None:
        """Takes over what an earlier agent wanted, and what has become of it.

        Raises BadMpsSettings when the files cannot be.
        """
        await asyncio.to_thread(make_directories, self._root)
        self._wanted, problems = await asyncio.to_thread(read_wanted, self._root.wanted)
        for problem in problems:
            log.warning("what was wanted of a GPU is not known", extra={"error": str(problem)})
        self._asked = dict.fromkeys(self._wanted, monotonic())
        await self._read()

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        now = seconds_since_boot()
        return {
            gpu: judge(self._statuses.get(gpu), self._silent(gpu, now))
            for gpu in {*self._wanted, *self._statuses}
        }

    def _silent(self, gpu: GpuUuid, now: float) -> float:
        status = self._statuses.get(gpu)
        since_asked = monotonic() - self._asked.get(gpu, monotonic())
        return since_asked if status is None else min(since_asked, now - status.at)

    @property
    def held(self) -> Mapping[GpuUuid, Backstop]:
        return {
            gpu: Backstop(wanted.limit_mib, wanted.used) for gpu, wanted in self._wanted.items()
        }

    async def hold(self, backstops: Mapping[GpuUuid, Backstop]) -> None:
        async with self._writing:
            for gpu in self._wanted.keys() - backstops.keys():
                await self._write(gpu, None)
                del self._wanted[gpu], self._asked[gpu]
            unchanged: dict[GpuUuid, Wanted] = {}
            for gpu, backstop in backstops.items():
                before = self._wanted.get(gpu)
                check = before.check if before else ""
                wanted = Wanted(backstop.limit_mib, backstop.used, check)
                if wanted == before:
                    unchanged[gpu] = wanted
                else:
                    await self._want(gpu, wanted)
            if unchanged:
                names = await asyncio.to_thread(_names, self._root.wanted)
                for gpu in unchanged.keys() - names:
                    log.error("a file was gone and is written again", extra={"gpu": gpu})
                    await self._write(gpu, unchanged[gpu])

    async def _want(self, gpu: GpuUuid, wanted: Wanted) -> None:
        before = self._wanted.get(gpu)
        if before == wanted:
            return
        await self._write(gpu, wanted)
        self._wanted[gpu] = wanted
        if before is None or before.limit_mib != wanted.limit_mib:
            self._asked[gpu] = monotonic()

    async def _write(self, gpu: GpuUuid, wanted: Wanted | None) -> None:
        """Puts the GPU's file in place, or takes it away; raises MpsRootUnwritable.

        It is waited for even when it is given up: left alone, the thread might put its file in
        place after, and instead of, the next one.
        """
        directory = self._root.wanted
        if wanted is None:
            call = asyncio.to_thread(remove_record, directory, gpu)
        else:
            call = asyncio.to_thread(write_record, directory, gpu, wanted)
        writing = asyncio.ensure_future(call)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait((writing,))
            raise
        except OSError as error:
            raise MpsRootUnwritable(
                f"what is wanted of {gpu} cannot be written below {directory} ({error.strerror}); "
                "the directory under --mps-root has to be writable and to have room"
            ) from error

    async def lagging(self, gpus: Collection[GpuUuid], seconds: float) -> frozenset[GpuUuid]:
        while late := frozenset(gpu for gpu in gpus if not self._grants_backstop(gpu)):
            seen, health = self.changed.count, self.health()
            hopeful = [gpu for gpu in late if gpu in health and health[gpu].reason is None]
            until = max((self._asked.get(gpu, 0.0) + seconds for gpu in hopeful), default=0.0)
            left = until - monotonic()
            if left <= 0 or not await self.changed.within(seen, left):
                return late
        return frozenset()

    def _grants_backstop(self, gpu: GpuUuid) -> bool:
        status, wanted = self._statuses.get(gpu), self._wanted.get(gpu)
        return (
            status is not None
            and wanted is not None
            and status.state is MpsState.READY
            and status.limit_mib == wanted.limit_mib
        )

    async def wait_ready(self, gpu: GpuUuid) -> None:
        number = next(self._checks)
        asked = False
        while not (asked and self._has_checked(gpu, number)):
            seen = self.changed.count
            async with self._writing:
                wanted = self._wanted.get(gpu)
                if wanted is not None and not asked:
                    # A later check than this one serves as well.
                    await self._want(gpu, replace(wanted, check=f"{self._life}-{number}"))
                    asked = True
                    continue
            await self.changed.after(seen)
        if not self._host_ipc:
            await asyncio.to_thread(self._check_shared_memory, gpu)

    def _has_checked(self, gpu: GpuUuid, number: int) -> bool:
        if not self._grants_backstop(gpu):
            return False
        life, _, checked = self._statuses[gpu].check.partition("-")
        return life == self._life and int(checked) >= number

    def _check_shared_memory(self, gpu: GpuUuid) -> None:
        directory = self._root.shared_memory
        if identity(directory) != self._statuses[gpu].shm:
            raise AgentError(
                f"{directory} is not the /dev/shm of the MPS servers, which a container without "
                "hostIPC needs; start both DaemonSets with --host-ipc=false, and with "
                "mountPropagation for --mps-root"
            )

    async def follow(self) -> NoReturn:
        with DirectoryWatch(self._root.status) as watch:
            while True:
                await self._read()
                try:
                    # Looked at in between too: silence makes no event.
                    async with asyncio.timeout(STALE_SECONDS / 3):
                        await watch.next()
                except TimeoutError:
                    continue

    async def _read(self) -> None:
        found, problems = await asyncio.to_thread(read_statuses, self._root.status)
        for problem in problems:
            log.warning("an MPS daemon's status is not known", extra={"error": str(problem)})
        news = found.keys() != self._statuses.keys() or any(
            not status.same_but_for_time(self._statuses[gpu]) for gpu, status in found.items()
        )
        self._statuses = found
        health = self.health()
        if news or health != self._told:
            self._told = health
            self.changed.beat()


def _names(directory: Path) -> set[str]:
    """The files in a directory; none where it is gone."""
    try:
        return set(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return set()
