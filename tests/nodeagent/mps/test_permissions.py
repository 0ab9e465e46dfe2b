"""What a container can do to a daemon with no more than the pipe directory, which it mounts.

docs/mps.md tells users; these tests hold that page to what NVIDIA's control program does.
"""

import asyncio
import os
import socket
import struct

import pytest

from nodeagent.mps import observer
from nodeagent.mps.decision import Policy
from nodeagent.mps.records import MpsState
from tests.nodeagent.mps.machine import ONE, STRANGER, USER, MpsMachine
from tests.waiting import DEADLINE

BOTH = pytest.mark.parametrize("mps_suite", ["bookworm", "trixie"])
DRIVER_535 = pytest.mark.parametrize("mps_suite", ["bookworm"])
DRIVER_550 = pytest.mark.parametrize("mps_suite", ["trixie"])
EITHER_USER = pytest.mark.parametrize("uid", [USER, STRANGER])

SCM_CREDENTIALS = 2  # <sys/socket.h>

GET_DEFAULT = "get_default_device_pinned_mem_limit 0"


@BOTH
@EITHER_USER
async def test_nobody_but_root_ends_the_daemon(mps_machine: MpsMachine, uid: int) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        for command in ("quit", "quit -t 0"):
            answer = await asyncio.to_thread(mps_machine.ask, command, uid=uid)
            assert answer == "Not enough privilege to execute quit command"
        assert mps_machine.daemon()


@DRIVER_550
@EITHER_USER
async def test_from_550_on_nobody_but_root_changes_what_servers_start_with(
    mps_machine: MpsMachine, uid: int
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        for command in (
            "set_default_device_pinned_mem_limit 0 70000M",
            "set_default_active_thread_percentage 1",
        ):
            answer = await asyncio.to_thread(mps_machine.ask, command, uid=uid)
            assert answer.startswith("Insufficient privileges")
        assert mps_machine.ask(GET_DEFAULT) == "9G"


@DRIVER_535
async def test_before_550_anybody_does_and_the_next_check_sets_it_back(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        mps_machine.ask("set_default_device_pinned_mem_limit 0 70000M", uid=STRANGER)
        assert mps_machine.ask(GET_DEFAULT) == "68G"
        await mps_machine.checked()
        assert mps_machine.ask(GET_DEFAULT) == "9G"


@BOTH
async def test_mps_user_changes_its_own_server_and_the_next_check_sets_it_back(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        (server,) = mps_machine.servers()
        mps_machine.ask(f"set_device_pinned_mem_limit {server} 0 70000M", uid=USER)
        get = f"get_device_pinned_mem_limit {server} 0"
        assert mps_machine.ask(get) == "68G"
        await mps_machine.checked()
        assert mps_machine.ask(get) == "9G"


@BOTH
async def test_mps_user_ends_other_clients_of_its_server(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        client = await asyncio.to_thread(mps_machine.served)
        (server,) = mps_machine.servers()
        answer = await asyncio.to_thread(
            mps_machine.ask, f"terminate_client {server} {client.pid}", uid=USER
        )
        assert answer == "0"
        assert await asyncio.to_thread(client.wait, DEADLINE) == 9


@BOTH
async def test_mps_user_ends_its_server_and_it_is_started_again(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        (server,) = mps_machine.servers()
        await asyncio.to_thread(mps_machine.ask, f"shutdown_server {server} -f", uid=USER)
        await mps_machine.until(
            lambda: mps_machine.servers() not in ((), (server,)), "another server"
        )
        await mps_machine.ready()


@BOTH
async def test_stranger_ends_no_server(mps_machine: MpsMachine) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        (server,) = mps_machine.servers()
        answer = await asyncio.to_thread(
            mps_machine.ask, f"shutdown_server {server} -f", uid=STRANGER
        )
        assert answer.startswith("Insufficient privileges")
        assert mps_machine.servers() == (server,)


@BOTH
async def test_stranger_ends_clients_and_raises_limits_before_550(
    mps_machine: MpsMachine, mps_suite: str
) -> None:
    before_550 = mps_suite == "bookworm"
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        client = await asyncio.to_thread(mps_machine.served)
        (server,) = mps_machine.servers()
        for command in (
            f"set_device_pinned_mem_limit {server} 0 70000M",
            f"terminate_client {server} {client.pid}",
        ):
            answer = await asyncio.to_thread(mps_machine.ask, command, uid=STRANGER)
            assert answer.startswith("Insufficient privileges") != before_550
        limit = mps_machine.ask(f"get_device_pinned_mem_limit {server} 0")
        assert limit == ("68G" if before_550 else "9G")
        assert (client.poll() is None) != before_550


async def test_what_was_changed_is_set_back_in_time(
    mps_machine: MpsMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "FULL_SECONDS", 0.5)
    mps_machine.want()
    async with mps_machine.supervised(Policy(USER, poll_seconds=0.1)):
        await mps_machine.ready()
        (server,) = mps_machine.servers()
        get = f"get_device_pinned_mem_limit {server} 0"
        mps_machine.ask(f"set_device_pinned_mem_limit {server} 0 70000M", uid=USER)
        await mps_machine.until(lambda: mps_machine.ask(get) == "9G", "the limit set back")


async def test_client_that_stops_while_it_connects_hangs_the_daemon(
    mps_machine: MpsMachine,
) -> None:
    """The control daemon waits for it and does nothing else."""
    impatient = Policy(USER, poll_seconds=0.1)
    mps_machine.want(used=True)
    async with mps_machine.supervised(impatient):
        await mps_machine.ready()
        path = mps_machine.root.pipe(ONE) / "control"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(path))
            client.recv(64)
            us = struct.pack("iii", os.getpid(), os.getuid(), os.getgid())
            client.sendmsg([b"OUTBCRED\0"], [(socket.SOL_SOCKET, SCM_CREDENTIALS, us)])
            await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "the hang told")
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.READY), "its end")


async def test_pid_file_that_somebody_wrote_is_not_believed(mps_machine: MpsMachine) -> None:
    """Every user may write it."""
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        daemon = mps_machine.daemon()
        file = mps_machine.root.pipe(ONE) / "nvidia-cuda-mps-control.pid"
        assert file.stat().st_mode & 0o002
        file.write_text(str(os.getpid()))
        await mps_machine.checked()
        assert mps_machine.daemon() == daemon
