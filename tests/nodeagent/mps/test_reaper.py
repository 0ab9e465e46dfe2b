"""`mpslice-nodeagent mps` as its container runs it: who outlives whom."""

import asyncio
import os
import signal
import subprocess
import sys

from nodeagent.mps.records import MpsState
from tests.nodeagent.mps.machine import (
    DEFAULT,
    EXCLUSIVE,
    ONE,
    MpsMachine,
    children_of,
)
from tests.waiting import DEADLINE


async def supervisor_of(
    machine: MpsMachine, reaper: "subprocess.Popen[bytes]", but: int = 0
) -> int:
    """The supervisor's process, another than `but`: the first that the reaper starts."""

    def find() -> int | None:
        known = (but, machine.daemon(), *machine.servers())
        return next((pid for pid in children_of(reaper.pid) if pid not in known), None)

    return await machine.until(find, "a supervisor")


NO_PROCESS_LEFT = """
import errno, os
from nodeagent.mps import children, reaper
fork, refused = os.fork, iter((True, True))
def forking():
    if next(refused, False):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()
os.fork = forking
def work(line):
    print("supervised", flush=True)
    return reaper.REFUSED
print(reaper.Reaper(work, lambda line: 0, children.Children(None)).run())
"""


def test_machine_that_has_no_process_left_for_a_moment_is_waited_for() -> None:
    """The daemons live as long as this process does."""
    command = [sys.executable, "-c", NO_PROCESS_LEFT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout.split() == ["supervised", "1"], done.stderr


async def test_killed_supervisor_is_replaced_and_its_daemons_live_on(
    mps_machine: MpsMachine,
) -> None:
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    found = mps_machine.daemon(), mps_machine.servers()
    client = await asyncio.to_thread(mps_machine.served)
    supervisor = await supervisor_of(mps_machine, reaper)
    os.kill(supervisor, signal.SIGKILL)
    await mps_machine.checked(used=True)
    assert await supervisor_of(mps_machine, reaper, but=supervisor) != supervisor
    assert (mps_machine.daemon(), mps_machine.servers()) == found
    assert client.poll() is None
    assert mps_machine.mode() == EXCLUSIVE


async def test_stopped_supervisor_is_replaced_and_its_daemons_live_on(
    mps_machine: MpsMachine,
) -> None:
    """Only the container's end is an end; a signal to the supervisor alone is none."""
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    daemon = mps_machine.daemon()
    supervisor = await supervisor_of(mps_machine, reaper)
    os.kill(supervisor, signal.SIGTERM)
    await mps_machine.checked()
    assert mps_machine.daemon() == daemon
    assert mps_machine.mode() == EXCLUSIVE


async def test_daemon_killed_with_its_supervisor_is_started_again(
    mps_machine: MpsMachine,
) -> None:
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    daemon, supervisor = mps_machine.daemon(), await supervisor_of(mps_machine, reaper)
    assert daemon
    for pid in (supervisor, daemon):
        os.kill(pid, signal.SIGKILL)
    status = await mps_machine.checked()
    assert status.restarts == 1
    assert mps_machine.daemon() not in (None, daemon)
    mps_machine.hand_back()
    await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert mps_machine.mode() == DEFAULT


async def test_daemons_are_reaped(mps_machine: MpsMachine) -> None:
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    first = mps_machine.daemon()
    assert first
    assert first in children_of(reaper.pid)
    os.kill(first, signal.SIGKILL)
    await mps_machine.until(lambda: not os.path.exists(f"/proc/{first}"), "its reaping")


async def test_end_of_an_idle_container_ends_its_daemons_at_once(
    mps_machine: MpsMachine,
) -> None:
    reaper = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    reaper.terminate()
    assert await asyncio.to_thread(reaper.wait, DEADLINE) == 0
    assert mps_machine.daemon() is None
    assert mps_machine.mode() == DEFAULT
    assert not mps_machine.root.exclusive(ONE).exists()


async def test_end_of_a_container_waits_for_clients_with_the_mode_set_back(
    mps_machine: MpsMachine,
) -> None:
    reaper = mps_machine.start()
    mps_machine.want(used=True)
    await mps_machine.ready()
    client = await asyncio.to_thread(mps_machine.served)
    reaper.terminate()
    await mps_machine.until(lambda: mps_machine.mode() == DEFAULT, "the mode set back")
    assert client.poll() is None
    assert reaper.poll() is None
    client.kill()
    assert await asyncio.to_thread(reaper.wait, DEADLINE) == 0
    assert mps_machine.daemon() is None


async def test_next_container_takes_up_what_was_wanted(mps_machine: MpsMachine) -> None:
    first = mps_machine.start()
    mps_machine.want()
    await mps_machine.ready()
    first.terminate()
    await asyncio.to_thread(first.wait, DEADLINE)
    mps_machine.start()
    await mps_machine.checked()
    assert mps_machine.is_state(MpsState.READY)
    assert mps_machine.mode() == EXCLUSIVE
