"""The agent's side against a real supervisor with NVIDIA's control program."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.errors import AgentError
from nodeagent.hardware import Backstop, MpsHealth
from nodeagent.mps import client as client_module
from nodeagent.mps.client import MPS_DOWN, MPS_FAULT, STALE_SECONDS, MpsFiles, judge
from nodeagent.mps.decision import Policy
from nodeagent.mps.errors import BadMpsSettings, MpsRootUnwritable
from nodeagent.mps.news import News, news
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import MpsState, Status, Wanted, read_wanted, write_record
from tests.nodeagent.mps.machine import DEFAULT, ONE, TWO, USER, MpsMachine
from tests.waiting import DEADLINE

IMPATIENT = Policy(USER, poll_seconds=0.3, grace_seconds=0.1, recover=False)


@asynccontextmanager
async def agent(machine: MpsMachine, *, host_ipc: bool = True) -> AsyncIterator[MpsFiles]:
    mps = MpsFiles(machine.root, host_ipc=host_ipc)
    await mps.load()
    task = asyncio.create_task(mps.follow())
    try:
        yield mps
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def in_time(mps: MpsFiles, gpu: GpuUuid = ONE) -> None:
    async with asyncio.timeout(DEADLINE):
        await mps.wait_ready(gpu)


async def test_held_gpu_serves_and_one_handed_back_is_gone(mps_machine: MpsMachine) -> None:
    async with agent(mps_machine) as mps, mps_machine.supervised():
        await mps.hold({ONE: Backstop(9533), TWO: Backstop(1)})
        assert await mps.lagging([ONE, TWO], 10) == frozenset()
        assert mps.health() == {ONE: MpsHealth(), TWO: MpsHealth()}
        await in_time(mps)
        await mps.hold({TWO: Backstop(1)})
        await mps_machine.until(lambda: ONE not in mps.health(), "the hand-back")
        assert mps_machine.mode(ONE) == DEFAULT


async def test_raised_backstop_is_waited_for(mps_machine: MpsMachine) -> None:
    async with agent(mps_machine) as mps, mps_machine.supervised():
        for limit, printed in ((9533, "9G"), (19067, "18G")):
            await mps.hold({ONE: Backstop(limit)})
            assert await mps.lagging([ONE], 40) == frozenset()
            assert mps_machine.ask("get_default_device_pinned_mem_limit 0") == printed


async def test_daemon_that_takes_longer_lags_and_no_longer_than_it_may(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.misbehave("slow")
    async with agent(mps_machine) as mps, mps_machine.supervised():
        await mps.hold({ONE: Backstop(9533)})
        async with asyncio.timeout(DEADLINE):
            assert await mps.lagging([ONE], 0.5) == {ONE}
        await mps_machine.until(lambda: mps.health()[ONE].detail, "a reason")
        assert mps.health()[ONE].reason is None
        mps_machine.misbehave("slow", on=False)
        await in_time(mps)
        assert await mps.lagging([ONE], 0) == frozenset()


async def test_daemon_that_is_down_is_not_waited_for(mps_machine: MpsMachine) -> None:
    mps_machine.misbehave("dies")
    async with agent(mps_machine) as mps, mps_machine.supervised():
        await mps.hold({ONE: Backstop(9533)})
        async with asyncio.timeout(DEADLINE):
            assert await mps.lagging([ONE], 1000) == {ONE}
        assert mps.health()[ONE].reason == MPS_DOWN
        assert "does not stay" in mps.health()[ONE].detail


async def test_containers_wait_while_the_daemon_is_away(mps_machine: MpsMachine) -> None:
    async with agent(mps_machine) as mps:
        await mps.hold({ONE: Backstop(9533)})
        waiting = [asyncio.create_task(mps.wait_ready(ONE)) for _ in range(3)]
        async with mps_machine.supervised():
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*waiting)
        daemon = mps_machine.daemon()
        assert daemon
        os.kill(daemon, signal.SIGKILL)
        late = asyncio.create_task(mps.wait_ready(ONE))
        done, _ = await asyncio.wait([late], timeout=0.3)
        assert not done  # what was said of the daemon that died counts no more
        async with mps_machine.supervised():
            async with asyncio.timeout(DEADLINE):
                await late
        assert mps_machine.daemon() not in (None, daemon)


async def test_next_agent_takes_over_what_was_held(mps_machine: MpsMachine) -> None:
    async with mps_machine.supervised():
        async with agent(mps_machine) as mps:
            await mps.hold({ONE: Backstop(9533, used=True)})
            await in_time(mps)
        daemon = mps_machine.daemon()
        async with agent(mps_machine) as mps:
            assert mps.health() == {ONE: MpsHealth()}
            await in_time(mps)
            await mps.hold({ONE: Backstop(9533, used=True)})
            assert mps_machine.daemon() == daemon


async def test_fault_and_restart_are_seen(mps_machine: MpsMachine) -> None:
    async with agent(mps_machine) as mps, mps_machine.supervised(IMPATIENT):
        await mps.hold({ONE: Backstop(9533, used=True)})
        await in_time(mps)
        client = await asyncio.to_thread(mps_machine.served)
        (server,) = mps_machine.servers()
        os.kill(server, signal.SIGUSR1)
        await mps_machine.until(lambda: mps.health()[ONE].reason == MPS_FAULT, "the fault")
        client.kill()
        await mps_machine.until(lambda: mps.health()[ONE].ready, "its end")
        daemon = mps_machine.daemon()
        assert daemon
        os.kill(daemon, signal.SIGKILL)
        await mps_machine.until(lambda: mps.health()[ONE].restarts == 1, "the restart")


async def test_shared_memory_has_to_be_that_of_the_servers(mps_machine: MpsMachine) -> None:
    mps_machine.root.shared_memory.mkdir(parents=True)
    async with agent(mps_machine, host_ipc=False) as mps, mps_machine.supervised():
        await mps.hold({ONE: Backstop(9533)})
        with pytest.raises(AgentError, match="is not the /dev/shm of the MPS servers"):
            await in_time(mps)


async def test_root_that_cannot_be_made_is_named(mps_machine: MpsMachine) -> None:
    (mps_machine.folder / "file").touch()
    mps = MpsFiles(MpsRoot(mps_machine.folder / "file"), host_ipc=True)
    with pytest.raises(BadMpsSettings, match=r"--mps-root: .*/file"):
        await mps.load()


async def test_what_cannot_be_written_is_said(mps_machine: MpsMachine) -> None:
    async with agent(mps_machine) as mps:
        mps_machine.root.wanted.rmdir()
        mps_machine.root.wanted.touch()
        with pytest.raises(MpsRootUnwritable, match=r"wanted of GPU-.* cannot be written below"):
            await mps.hold({ONE: Backstop(9533)})
        mps_machine.root.wanted.unlink()
        await mps.hold({ONE: Backstop(9533)})
        assert read_wanted(mps_machine.root.wanted)[0] == {ONE: Wanted(9533)}


async def test_what_has_gone_is_written_again(mps_machine: MpsMachine) -> None:
    """A supervisor would take its absence for a hand-back."""
    async with agent(mps_machine) as mps:
        await mps.hold({ONE: Backstop(9533)})
        (mps_machine.root.wanted / ONE).unlink()
        await mps.hold({ONE: Backstop(9533)})
        assert read_wanted(mps_machine.root.wanted)[0] == {ONE: Wanted(9533)}


async def test_write_that_was_given_up_never_undoes_a_later_one(
    mps_machine: MpsMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def write(directory: Path, gpu: GpuUuid, record: Wanted | Status) -> None:
        if isinstance(record, Wanted) and record.check:
            begun.set()
            go_on.wait(DEADLINE)
            write_record(directory, gpu, record)
            done.set()
        else:
            write_record(directory, gpu, record)

    async with agent(mps_machine) as mps:
        await mps.hold({ONE: Backstop(9533)})
        monkeypatch.setattr(client_module, "write_record", write)
        container = asyncio.create_task(mps.wait_ready(ONE))
        await asyncio.to_thread(begun.wait, DEADLINE)
        container.cancel()
        later = asyncio.create_task(mps.hold({ONE: Backstop(19067)}))
        await asyncio.wait([later], timeout=0.2)
        go_on.set()
        await asyncio.wait([later, container])
        await asyncio.to_thread(done.wait, DEADLINE)
        assert read_wanted(mps_machine.root.wanted)[0][ONE].limit_mib == 19067


def test_silence_counts_as_down() -> None:
    ready = Status(MpsState.READY, limit_mib=9533)
    assert judge(ready, STALE_SECONDS) == MpsHealth()
    assert judge(ready, STALE_SECONDS + 1).reason == MPS_DOWN
    assert judge(None, 0) == MpsHealth(ready=False, detail="its MPS daemon is not started yet")
    assert judge(None, STALE_SECONDS + 1).reason == MPS_DOWN


async def test_supervisor_that_falls_silent_is_noticed(
    mps_machine: MpsMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STALE_SECONDS", 0.3)
    async with agent(mps_machine) as mps:
        async with mps_machine.supervised(Policy(USER, poll_seconds=0.05)):
            await mps.hold({ONE: Backstop(9533)})
            await in_time(mps)
        seen = mps.changed.count
        async with asyncio.timeout(DEADLINE):
            while mps.health()[ONE].reason != MPS_DOWN:
                await mps.changed.after(seen)
                seen = mps.changed.count


def test_news_are_of_daemons_that_were_there_before() -> None:
    fault = MpsHealth(ready=False, reason=MPS_FAULT, detail="why")
    assert list(news({}, {ONE: fault})) == []
    (entry,) = news({ONE: MpsHealth()}, {ONE: fault})
    assert entry == News(ONE, MPS_FAULT, "the GPU of its slice cannot be used: why")
    assert list(news({ONE: fault}, {ONE: fault})) == []
    (entry,) = news({ONE: MpsHealth(restarts=1)}, {ONE: MpsHealth(restarts=2)})
    assert entry.reason == "MpsRestarted"
    hung = MpsHealth(ready=False, reason=MPS_DOWN, detail="it does not answer")
    (entry,) = news({ONE: MpsHealth()}, {ONE: hung})
    assert entry.reason == MPS_DOWN
    assert "it does not answer" in entry.message
    assert list(news({ONE: hung}, {ONE: hung})) == []
