"""Daemons as children of the container's first process, with control programs that differ.

Drivers 535 and 550 are NVIDIA's own; `615` is a stand-in that takes no lock file and forks.
"""

import asyncio
import os
import signal
import subprocess

import pytest

from nodeagent.mps.daemons import ReaperLine
from nodeagent.mps.errors import DaemonDidNotStart, ReaperSilent
from nodeagent.mps.processes import daemons_at, is_within
from nodeagent.mps.reaper import OOM_SCORE_ADJ
from nodeagent.mps.records import MpsState
from tests.nodeagent.mps.machine import DEFAULT, EXCLUSIVE, ONE, MpsMachine, is_running
from tests.nodeagent.mps.test_reaper import supervisor_of
from tests.waiting import DEADLINE

pytestmark = pytest.mark.parametrize("mps_suite", ["bookworm", "trixie", "615"])


# A container of this machine may lack CAP_SYS_RESOURCE.
LOWER = f"echo {OOM_SCORE_ADJ} > /proc/self/oom_score_adj"
MAY_LOWER = subprocess.run(["sh", "-c", LOWER], capture_output=True).returncode == 0


def oom_score_adj(pid: int | None) -> int:
    with open(f"/proc/{pid}/oom_score_adj") as file:
        return int(file.read())


async def test_daemon_is_served_adopted_replaced_and_released(mps_machine: MpsMachine) -> None:
    """The life of a GPU under one container, whose supervisor and daemon are killed."""
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    first = mps_machine.daemon()
    assert first
    assert is_within(first, reaper.pid)
    assert mps_machine.mode() == EXCLUSIVE
    expected = OOM_SCORE_ADJ if MAY_LOWER else oom_score_adj(os.getpid())
    for pid in (reaper.pid, first, *mps_machine.servers()):
        assert oom_score_adj(pid) == expected

    os.kill(await supervisor_of(mps_machine, reaper), signal.SIGKILL)
    status = await mps_machine.checked("adopted", used=True)
    assert (mps_machine.daemon(), status.restarts) == (first, 0)

    os.kill(first, signal.SIGKILL)
    status = await mps_machine.checked("replaced", used=True)
    second = mps_machine.daemon()
    assert second not in (None, first)
    assert status.restarts == 1
    assert all(is_within(pid, second) for pid in daemons_at(mps_machine.root.pipe(ONE)))
    assert len(mps_machine.servers()) == 1

    mps_machine.hand_back()
    await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert daemons_at(mps_machine.root.pipe(ONE)) == ()
    assert mps_machine.servers() == ()
    assert mps_machine.mode() == DEFAULT


async def test_no_daemon_outlives_its_container(mps_machine: MpsMachine) -> None:
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    supervisor, first = await supervisor_of(mps_machine, reaper), mps_machine.daemon()
    assert first is not None
    daemon = first
    reaper.kill()
    await mps_machine.until(
        lambda: not is_running(supervisor) and not is_running(daemon), "the end of both"
    )
    mps_machine.start()
    status = await mps_machine.checked("next container")
    assert status.restarts == 1
    assert mps_machine.daemon() not in (None, first)


async def test_daemon_of_another_container_is_left_while_slices_are_in_use(
    mps_machine: MpsMachine,
) -> None:
    """As of one that lets its clients end, while the next one has started."""
    stray = start_stray(mps_machine)
    mps_machine.want(used=True)
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "it told")
        status = mps_machine.status()
        assert status is not None
        assert "of another container still runs" in status.message
        assert str(stray) in status.message
        assert is_running(stray)
        mps_machine.hand_back()
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
        assert not is_running(stray)
    assert mps_machine.mode() == DEFAULT


async def test_daemon_of_another_container_that_nobody_uses_is_replaced(
    mps_machine: MpsMachine,
) -> None:
    stray = start_stray(mps_machine)
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        assert not is_running(stray)


def start_stray(machine: MpsMachine) -> int:
    machine.root.pipe(ONE).mkdir(parents=True)
    environment = {
        **machine.environment,
        "CUDA_MPS_PIPE_DIRECTORY": str(machine.root.pipe(ONE)),
        "CUDA_MPS_LOG_DIRECTORY": str(machine.folder),
    }
    subprocess.run(
        [machine.bin / "nvidia-cuda-mps-control", "-d"],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=DEADLINE,
    )
    stray = machine.daemon()
    assert stray
    return stray


async def test_line_answers_of_this_moment(mps_machine: MpsMachine) -> None:
    """A daemon that was killed is not said to live; one that lives is started once."""
    mps_machine.root.pipe(ONE).mkdir(parents=True)
    mps_machine.root.log(ONE).mkdir(parents=True)
    line = mps_machine.daemons()
    roll = await asyncio.to_thread(line.start, ONE)
    pid = roll.living[ONE]
    assert (await asyncio.to_thread(line.start, ONE)).living == {ONE: pid}
    await asyncio.to_thread(line.kill, ONE, signal.SIGKILL)
    await mps_machine.until(lambda: line.roll().ended.get(ONE) == -signal.SIGKILL, "its end")
    assert line.roll().living == {}


async def test_program_that_is_missing_is_an_answer(mps_machine: MpsMachine) -> None:
    line = mps_machine.daemons()
    await asyncio.to_thread(line.roll)
    (mps_machine.bin / "nvidia-cuda-mps-control").unlink()
    with pytest.raises(DaemonDidNotStart, match="is not to be found"):
        await asyncio.to_thread(line.start, ONE)


async def test_silent_reaper_is_an_error_and_no_empty_answer(mps_machine: MpsMachine) -> None:
    """A supervisor that took silence for the end of all daemons would release their GPUs."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        line = ReaperLine(ours, seconds=0.05)
        with theirs, pytest.raises(ReaperSilent):
            await asyncio.to_thread(line.roll)
        with pytest.raises(ReaperSilent):
            await asyncio.to_thread(line.roll)


async def test_daemon_that_ends_at_once_is_told_of_with_its_status(
    mps_machine: MpsMachine, mps_suite: str
) -> None:
    if mps_suite == "615":
        mps_machine.misbehave("no-libcuda")
        expected = "status 244: libcuda.so.1 cannot be loaded"
    else:
        program = mps_machine.bin / "nvidia-cuda-mps-control"
        program.unlink()
        program.write_text("#!/bin/sh\necho >&2 Cannot find MPS control daemon\nexit 1\n")
        program.chmod(0o755)
        expected = "it ended with status 1"
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "it told")
        status = mps_machine.status()
    assert status is not None
    assert expected in status.message
