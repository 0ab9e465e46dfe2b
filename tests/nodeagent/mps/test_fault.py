"""A server in FAULT, as drivers from 550 on tell it: ended clients, or only the telling."""

import asyncio
import os
import signal

from nodeagent.mps.decision import Policy
from nodeagent.mps.records import MpsState
from tests.nodeagent.mps.machine import USER, MpsMachine
from tests.waiting import DEADLINE

RECOVER = Policy(USER, poll_seconds=0.2, grace_seconds=0.5)
REPORT = Policy(USER, poll_seconds=0.2, grace_seconds=0.5, recover=False)


async def test_doomed_clients_are_ended_and_the_server_comes_back(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want(used=True)
    async with mps_machine.supervised(RECOVER):
        await mps_machine.ready()
        clients = [await asyncio.to_thread(mps_machine.served) for _ in range(2)]
        daemon, (server,) = mps_machine.daemon(), mps_machine.servers()
        os.kill(server, signal.SIGUSR1)
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.FAULT), "it told")
        assert [client.poll() for client in clients] == [None, None]
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.READY), "its recovery")
        assert [await asyncio.to_thread(client.wait, DEADLINE) for client in clients] == [9, 9]
        assert (mps_machine.daemon(), mps_machine.servers()) == (daemon, (server,))
        newcomer = await asyncio.to_thread(mps_machine.served)
        assert newcomer.poll() is None


async def test_clients_are_left_alone_when_it_is_only_to_be_reported(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want(used=True)
    async with mps_machine.supervised(REPORT):
        await mps_machine.ready()
        client = await asyncio.to_thread(mps_machine.served)
        (server,) = mps_machine.servers()
        os.kill(server, signal.SIGUSR1)
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.FAULT), "it told")
        looks = [await mps_machine.until(mps_machine.status, "a look")]
        while len(looks) < 5:
            seen = looks[-1].at
            looks.append(
                await mps_machine.until(
                    lambda seen=seen: (s := mps_machine.status()) and s.at > seen and s,  # type: ignore[misc]
                    "another look",
                )
            )
        assert {look.state for look in looks} == {MpsState.FAULT}
        assert client.poll() is None
        client.kill()
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.READY), "its recovery")
