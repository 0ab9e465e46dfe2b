"""Whatever happens to a daemon: once its GPU is handed back, nothing of it is left."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from nodeagent.mps.decision import Policy
from tests.freezing import freeze
from tests.nodeagent.mps.machine import DEFAULT, EXCLUSIVE, STRANGER, USER, MpsMachine

IMPATIENT = Policy(USER, poll_seconds=0.3, quit_seconds=1)


def kill_daemon(machine: MpsMachine) -> None:
    os.kill(machine.daemon() or 0, signal.SIGKILL)


def kill_server(machine: MpsMachine) -> None:
    os.kill(machine.servers()[0], signal.SIGKILL)


def kill_both(machine: MpsMachine) -> None:
    servers = machine.servers()
    kill_daemon(machine)
    os.kill(servers[0], signal.SIGKILL)


def hang_daemon(machine: MpsMachine) -> None:
    freeze(machine.daemon() or 0)


def hang_server(machine: MpsMachine) -> None:
    freeze(machine.servers()[0])


def fault(machine: MpsMachine) -> None:
    machine.served()
    os.kill(machine.servers()[0], signal.SIGUSR1)


def serve_a_stranger(machine: MpsMachine) -> None:
    machine.served(STRANGER)


def leave_a_client(machine: MpsMachine) -> None:
    machine.served()


def keep_servers_from_starting(machine: MpsMachine) -> None:
    machine.misbehave("dies")
    kill_server(machine)


@pytest.mark.parametrize("supervised_meanwhile", [True, False])
@pytest.mark.parametrize(
    "disaster",
    [
        kill_daemon,
        kill_server,
        kill_both,
        hang_daemon,
        hang_server,
        fault,
        serve_a_stranger,
        leave_a_client,
        keep_servers_from_starting,
    ],
)
async def test_mode_is_default_in_the_end_whatever_happened(
    mps_machine: MpsMachine,
    disaster: Callable[[MpsMachine], None],
    supervised_meanwhile: bool,
) -> None:
    """Whether the supervisor saw it happen, or was dead and another one finds it so."""
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        assert mps_machine.mode() == EXCLUSIVE
        if supervised_meanwhile:
            await asyncio.to_thread(disaster, mps_machine)
    if not supervised_meanwhile:
        await asyncio.to_thread(disaster, mps_machine)
    mps_machine.hand_back()
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.until(lambda: mps_machine.mode() == DEFAULT, "DEFAULT")
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert mps_machine.daemon() is None
    assert mps_machine.servers() == ()
