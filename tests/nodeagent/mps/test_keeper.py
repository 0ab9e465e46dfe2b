"""How the keeper goes about what does not last; the rest is in test_supervisor, on real daemons."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.mps import keeper
from nodeagent.mps.daemons import Roll
from nodeagent.mps.decision import Daemon, Observed, Policy, SetDefaultLimit, StartDaemon, Step
from nodeagent.mps.errors import ControlHung, DaemonDidNotStart
from nodeagent.mps.keeper import Keeper, Tools
from nodeagent.mps.observer import Observer
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import MpsState, Status, Wanted, read_statuses, write_record
from tests.waiting import eventually

GPU = GpuUuid("GPU-1")


async def nothing(*_: object, **__: bool) -> Observed:
    return Observed()


@asynccontextmanager
async def keeping(
    root: MpsRoot, daemons: "NoDaemons", said: Status | None = None
) -> AsyncIterator[None]:
    """A keeper whose control program cannot be found."""
    tools = Tools(
        root, Policy(1000, exclusive=False), NoModes(), daemons, "no-program", dict(os.environ)
    )
    task = asyncio.create_task(Keeper(GPU, Wanted(9533), tools, said).run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class NoModes:
    async def is_exclusive(self, gpu: GpuUuid) -> bool | None:
        return None

    async def set_exclusive(self, gpu: GpuUuid, *, exclusive: bool) -> None:
        raise AssertionError


class NoDaemons:
    """None can be started."""

    def __init__(self) -> None:
        self.tries = 0

    def roll(self) -> Roll:
        return Roll()

    def start(self, gpu: GpuUuid) -> Roll:
        self.tries += 1
        raise DaemonDidNotStart("no-program is not to be found")

    def kill(self, gpu: GpuUuid, number: int) -> Roll:
        return Roll()


class DyingDaemon:
    """Starts, and ends at the first thing it is told."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    async def look(self, **_: bool) -> Observed:
        alive = bool(self.steps) and isinstance(self.steps[-1], StartDaemon)
        return Observed(daemon=Daemon.ALIVE if alive else Daemon.ABSENT)

    async def act(self, step: Step) -> None:
        self.steps.append(step)
        await asyncio.sleep(0)


async def test_daemon_that_cannot_be_started_was_not_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Observer, "look", nothing)
    root, daemons = MpsRoot(tmp_path), NoDaemons()

    async def told_after_two_tries() -> Status | None:
        return read_statuses(root.status)[0].get(GPU) if daemons.tries > 1 else None

    async with keeping(root, daemons, Status(MpsState.READY, limit_mib=9533)):
        status = await eventually(told_after_two_tries, "a status")
    assert status is not None
    assert (status.state, status.restarts) == (MpsState.DOWN, 0)


async def test_daemon_that_is_slow_to_answer_was_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found alive at the next look, and not started once more."""
    looks = iter((Observed(), Observed(daemon=Daemon.ALIVE)))

    async def look(*_: object, **__: bool) -> Observed:
        return next(looks, Observed(daemon=Daemon.HUNG))

    async def hang(_: Keeper) -> None:
        raise ControlHung("no answer")

    monkeypatch.setattr(Observer, "look", look)
    monkeypatch.setattr(Keeper, "_until_it_answers", hang)
    monkeypatch.setattr(keeper, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(NoDaemons, "start", lambda *_: None)
    root = MpsRoot(tmp_path)

    async def told() -> Status | None:
        status = read_statuses(root.status)[0].get(GPU)
        return status if status is not None and status.restarts else None

    async with keeping(root, NoDaemons(), Status(MpsState.READY, limit_mib=9533)):
        status = await eventually(told, "the restart")
    assert status is not None
    assert status.restarts == 1


async def test_full_disk_does_not_stop_the_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Observer, "look", nothing)
    root, full = MpsRoot(tmp_path), iter((True, True))

    def write(folder: Path, gpu: GpuUuid, record: Status | Wanted) -> None:
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_record(folder, gpu, record)

    monkeypatch.setattr(keeper, "write_record", write)

    async def told() -> bool:
        return GPU in read_statuses(root.status)[0]

    async with keeping(root, NoDaemons()):
        await eventually(told, "a status, once there is room")


async def test_processes_that_pass_themselves_off_as_servers_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container can start them faster than they are ended, each with another PID."""
    pids = count(1 << 22)  # of no process
    ended: list[Step] = []

    async def look(*_: object, **__: bool) -> Observed:
        return Observed(left=(next(pids),))

    async def act(_: Keeper, step: Step) -> None:
        ended.append(step)
        await asyncio.sleep(0)

    monkeypatch.setattr(Observer, "look", look)
    monkeypatch.setattr(Keeper, "_act", act)
    root = MpsRoot(tmp_path)

    async def told() -> Status | None:
        return read_statuses(root.status)[0].get(GPU)

    async with keeping(root, NoDaemons()):
        status = await eventually(told, "a status")
    assert status is not None
    assert status.state is MpsState.DOWN
    assert "have not ended yet" in status.message
    assert 50 <= len(ended) <= 200


async def test_daemon_that_dies_of_each_order_is_told_of_and_started_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = DyingDaemon()
    monkeypatch.setattr(Observer, "look", daemon.look)
    monkeypatch.setattr(Keeper, "_act", daemon.act)
    root = MpsRoot(tmp_path)
    daemons = NoDaemons()
    tools = Tools(
        root, Policy(1000, exclusive=False), NoModes(), daemons, "no-program", dict(os.environ)
    )
    keeping = asyncio.create_task(Keeper(GPU, Wanted(9533), tools, None).run())

    async def told() -> Status | None:
        return read_statuses(root.status)[0].get(GPU)

    try:
        status = await eventually(told, "a status", every=0.002)
        assert status is not None
        assert status.state is MpsState.DOWN
        assert status.message == "the MPS control daemon does not stay"
        assert daemon.steps[:2] == [StartDaemon(), SetDefaultLimit(9533)]
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
