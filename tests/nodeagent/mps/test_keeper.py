"""How the keeper goes about what does not last; the rest is in test_supervisor, on real daemons."""

import asyncio
import os
from pathlib import Path

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.mps.decision import Daemon, Observed, Policy, SetDefaultLimit, StartDaemon, Step
from nodeagent.mps.keeper import Keeper, Tools
from nodeagent.mps.observer import Observer
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import MpsState, Status, Wanted, read_statuses
from tests.waiting import eventually

GPU = GpuUuid("GPU-1")


class NoModes:
    async def is_exclusive(self, gpu: GpuUuid) -> bool | None:
        return None

    async def set_exclusive(self, gpu: GpuUuid, *, exclusive: bool) -> None:
        raise AssertionError


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


async def test_daemon_that_dies_of_each_order_is_told_of_and_started_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = DyingDaemon()
    monkeypatch.setattr(Observer, "look", daemon.look)
    monkeypatch.setattr(Keeper, "_act", daemon.act)
    root = MpsRoot(tmp_path)
    tools = Tools(root, Policy(1000, exclusive=False), NoModes(), "no-program", dict(os.environ))
    keeping = asyncio.create_task(Keeper(GPU, Wanted(9533), tools, None).run())

    async def told() -> Status | None:
        return read_statuses(root.status)[0].get(GPU)

    try:
        status = await eventually(told, "a status", seconds=5, every=0.002)
        assert status is not None
        assert status.state is MpsState.DOWN
        assert status.message == "the MPS control daemon does not stay"
        assert daemon.steps[:2] == [StartDaemon(), SetDefaultLimit(9533)]
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
