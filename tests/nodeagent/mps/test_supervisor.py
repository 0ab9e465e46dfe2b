"""The supervisor with NVIDIA's own control program: a GPU from its start to its handing back."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from nodeagent.mps.control import DEVICE
from nodeagent.mps.decision import Policy
from nodeagent.mps.processes import uid_of
from nodeagent.mps.records import MpsState
from tests.freezing import freeze, thaw
from tests.nodeagent.mps.machine import (
    DEFAULT,
    EXCLUSIVE,
    ONE,
    STRANGER,
    TWO,
    USER,
    MpsMachine,
)
from tests.nodeagent.nvml.driver import RESET_REQUIRED

IMPATIENT = Policy(USER, poll_seconds=0.3, grace_seconds=0.1)

pytestmark = pytest.mark.parametrize("mps_suite", ["bookworm", "trixie"])
"""Drivers 535 and 550: the first tells no server's status."""


async def test_wanted_gpu_gets_a_daemon_and_a_server_of_the_mps_user(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want(ONE, 9533)
    async with mps_machine.supervised():
        await mps_machine.ready(9533)
        (server,) = mps_machine.servers()
        assert uid_of(server) == USER
        assert mps_machine.mode() == EXCLUSIVE
        assert mps_machine.ask(f"get_default_device_pinned_mem_limit {DEVICE}") == "9G"
        assert mps_machine.ask(f"get_device_pinned_mem_limit {server} {DEVICE}") == "9G"
        assert mps_machine.daemon(TWO) is None
        assert mps_machine.mode(TWO) is None


async def test_daemon_sees_its_gpu_alone_and_the_rest_of_the_environment(
    mps_machine: MpsMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=1M")
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
    for pid in (mps_machine.daemon(), *mps_machine.servers()):
        words = environment_of(pid)
        assert f"CUDA_VISIBLE_DEVICES={ONE}" in words
        assert f"CUDA_MPS_PIPE_DIRECTORY={mps_machine.root.pipe(ONE)}" in words
        assert not any(word.startswith("CUDA_MPS_PINNED") for word in words)
        assert f"STAND_IN={mps_machine.told}" in words


def environment_of(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def test_limit_is_raised_on_the_running_server_too(mps_machine: MpsMachine) -> None:
    mps_machine.want(ONE, 9533)
    async with mps_machine.supervised():
        await mps_machine.ready(9533)
        (server,) = mps_machine.servers()
        for limit, printed in ((19066, "18G"), (19067, "18G"), (500, "500M")):
            mps_machine.want(ONE, limit)
            await mps_machine.ready(limit)
            assert mps_machine.ask(f"get_default_device_pinned_mem_limit {DEVICE}") == printed
            assert mps_machine.ask(f"get_device_pinned_mem_limit {server} {DEVICE}") == printed
    assert mps_machine.servers() == (server,)


async def test_handing_back_ends_the_daemon_and_sets_the_mode_back(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want(ONE)
    mps_machine.want(TWO)
    async with mps_machine.supervised():
        await mps_machine.ready(gpu=ONE)
        await mps_machine.ready(gpu=TWO)
        mps_machine.hand_back(ONE)
        await mps_machine.until(lambda: mps_machine.status(ONE) is None, "the hand-back")
        assert mps_machine.daemon(ONE) is None
        assert mps_machine.servers(ONE) == ()
        assert mps_machine.mode(ONE) == DEFAULT
        assert mps_machine.daemon(TWO)
        assert mps_machine.mode(TWO) == EXCLUSIVE


async def test_gpu_whose_mode_cannot_be_told_is_served_and_handed_back_all_the_same(
    mps_machine: MpsMachine,
) -> None:
    """As one that has to be reset, which nobody can do as long as a server holds it."""
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        mps_machine.driver.fail("nvmlDeviceGetComputeMode", RESET_REQUIRED, ONE)
        mps_machine.want(limit=19066)
        await mps_machine.ready(19066)
        mps_machine.hand_back()
        await mps_machine.until(
            lambda: mps_machine.daemon() is None and not mps_machine.servers(), "the daemon's end"
        )
        mps_machine.driver.recover()
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert mps_machine.mode() == DEFAULT


async def test_compute_mode_is_left_alone_when_told_so(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised(Policy(USER, exclusive=False)):
        await mps_machine.ready()
        mps_machine.hand_back()
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert mps_machine.mode() is None


async def test_mode_that_somebody_changed_is_exclusive_again(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        mps_machine.driver.gpu(ONE, memory=81920, mode=0)
        mps_machine.driver.file.with_name(f"{mps_machine.driver.file.name}.mode-{ONE}").unlink()
        mps_machine.want(check="now")
        await mps_machine.until(lambda: mps_machine.mode() == EXCLUSIVE, "exclusive again")


async def test_killed_daemon_is_started_again(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        first, (left,) = mps_machine.daemon(), mps_machine.servers()
        assert first
        os.kill(first, signal.SIGKILL)
        await mps_machine.until(
            lambda: (s := mps_machine.status()) and s.restarts == 1 and s.state is MpsState.READY,
            "another daemon",
        )
        assert mps_machine.daemon() not in (None, first)
        assert left not in mps_machine.servers()
        assert mps_machine.mode() == EXCLUSIVE


async def test_killed_server_is_started_again(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        daemon, (server,) = mps_machine.daemon(), mps_machine.servers()
        os.kill(server, signal.SIGKILL)
        await mps_machine.until(
            lambda: mps_machine.servers() not in ((), (server,)), "another server"
        )
        await mps_machine.ready()
        assert mps_machine.daemon() == daemon


async def test_next_supervisor_adopts_what_it_finds(mps_machine: MpsMachine) -> None:
    mps_machine.want(ONE, 9533)
    async with mps_machine.supervised():
        await mps_machine.ready()
    found = mps_machine.daemon(), mps_machine.servers()
    client = mps_machine.served()
    mps_machine.want(ONE, 9533, used=True, check="again")
    async with mps_machine.supervised():
        await mps_machine.until(
            lambda: (s := mps_machine.status()) and s.check == "again", "an answer"
        )
        assert (mps_machine.daemon(), mps_machine.servers()) == found
        assert mps_machine.status().restarts == 0  # type: ignore[union-attr]  # until saw it
    assert client.poll() is None


async def test_daemon_that_died_with_its_supervisor_is_started_again(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
    first = mps_machine.daemon()
    assert first
    os.kill(first, signal.SIGKILL)
    mps_machine.want(check="again")
    async with mps_machine.supervised():
        await mps_machine.until(
            lambda: (s := mps_machine.status()) and s.check == "again", "an answer"
        )
        assert mps_machine.daemon() not in (None, first)
        mps_machine.hand_back()
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert mps_machine.mode() == DEFAULT


async def test_gpu_handed_back_while_nobody_supervised_is_set_back(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
    mps_machine.hand_back()
    assert mps_machine.daemon()
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert mps_machine.daemon() is None
    assert mps_machine.mode() == DEFAULT


@pytest.mark.parametrize("held", ["mark", "daemon"])
async def test_what_a_supervisor_had_not_yet_told_of_is_handed_back(
    mps_machine: MpsMachine, held: str
) -> None:
    """It may be killed between any two steps."""
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
    (mps_machine.root.status / ONE).unlink()
    daemon = mps_machine.daemon()
    assert daemon
    if held == "mark":
        os.kill(daemon, signal.SIGKILL)
    mps_machine.hand_back()
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.mode() == DEFAULT, "the hand-back")
    assert mps_machine.daemon() is None


async def test_hung_daemon_is_told_of_and_left_while_it_is_in_use(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want(used=True)
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.ready()
        daemon = mps_machine.daemon()
        assert daemon
        freeze(daemon)
        mps_machine.want(used=True, check="1")
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "the hang told")
        message = mps_machine.status().message  # type: ignore[union-attr]  # until saw it
        assert "does not answer; its slices are in use" in message
        await asyncio.sleep(0)
        thaw(daemon)
        await mps_machine.ready()
        assert mps_machine.daemon() == daemon


async def test_hung_daemon_that_nobody_uses_is_replaced(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.ready()
        daemon = mps_machine.daemon()
        assert daemon
        freeze(daemon)
        await mps_machine.checked("1")
        assert mps_machine.daemon() not in (None, daemon)


async def test_hung_server_hangs_its_daemon(
    mps_machine: MpsMachine,
) -> None:
    """The control daemon waits for its server and for nothing else meanwhile."""
    mps_machine.want(used=True)
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.ready()
        (server,) = mps_machine.servers()
        freeze(server)
        mps_machine.want(used=True, check="1")
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "the hang told")
        thaw(server)
        await mps_machine.ready()


async def test_server_that_does_not_stay_is_told_of_with_its_reason(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.misbehave("dies")
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "it told")
        assert mps_machine.status().message == (  # type: ignore[union-attr]  # until saw it
            "the MPS server does not stay: Failed to start : no CUDA-capable device is detected"
        )
        mps_machine.misbehave("dies", on=False)
        await mps_machine.ready()


async def test_server_that_is_slow_is_starting(mps_machine: MpsMachine) -> None:
    mps_machine.misbehave("slow")
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.STARTING), "it starting")
        mps_machine.misbehave("slow", on=False)
        await mps_machine.ready()


async def test_server_of_another_user_is_told_of_and_replaced_when_it_is_idle(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.ready()
        stranger = await asyncio.to_thread(mps_machine.served, STRANGER)
        mps_machine.want(check="1")
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.WRONG_USER), "it told")
        message = mps_machine.status().message  # type: ignore[union-attr]  # until saw it
        assert f"serves uid {STRANGER} and not {USER}" in message
        assert str(stranger.pid) in message
        stranger.kill()
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.READY), "our own server")
        (server,) = mps_machine.servers()
        assert uid_of(server) == USER


async def test_lock_that_a_container_holds_stops_no_daemon(mps_machine: MpsMachine) -> None:
    """Every user may lock the file that is the daemon's sign of life."""
    import fcntl

    pipe = mps_machine.root.pipe(ONE)
    pipe.mkdir(parents=True)
    with (pipe / "control_lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        mps_machine.want()
        async with mps_machine.supervised():
            await mps_machine.ready()


async def test_lost_gpu_is_handed_back_without_its_mode(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        mps_machine.driver.lose(ONE)
        mps_machine.hand_back()
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")


async def test_mode_that_cannot_be_set_is_told_of(mps_machine: MpsMachine) -> None:
    mps_machine.driver.fail("nvmlDeviceSetComputeMode", 4)
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "it told")
        message = mps_machine.status().message  # type: ignore[union-attr]  # until saw it
        assert "cannot be set to EXCLUSIVE_PROCESS" in message
        assert "--compute-mode=keep" in message
        mps_machine.driver.recover()
        await mps_machine.ready()


async def test_second_supervisor_waits_for_the_end_of_the_first(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised(), mps_machine.supervised() as second:
        await mps_machine.ready()
        assert not second.done()
    assert mps_machine.status().restarts == 0  # type: ignore[union-attr]  # ready saw it
