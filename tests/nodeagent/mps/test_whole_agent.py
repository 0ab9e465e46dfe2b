"""The whole agent and the supervisor, on real pynvml with the C library and NVIDIA's control
program, with a fake kubelet and an API server in memory."""

import asyncio
import os
import signal

import pytest

from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.mps.client import MpsFiles
from nodeagent.mps.control import CALL_SECONDS
from nodeagent.mps.decision import Policy
from nodeagent.mps.paths import MpsRoot
from tests.nodeagent.conftest import Machine, device, gpu, resource
from tests.nodeagent.mps.machine import DEFAULT, EXCLUSIVE, ONE, STRANGER, TWO, USER, MpsMachine
from tests.waiting import DEADLINE

TEN = 9563  # MiB: of 81920, less 256 for MPS
IMPATIENT = Policy(USER, poll_seconds=0.3, grace_seconds=0.5)


@pytest.fixture
def node(machine: Machine, mps_machine: MpsMachine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose agent runs on the fake driver and whatever supervisor there is."""
    assert (gpu(1), gpu(2)) == (ONE, TWO)
    mps_machine.call_seconds = CALL_SECONDS  # no daemon hangs here, and a machine may be busy

    async def find_hardware() -> tuple[Gpus, MpsControl]:
        mps = MpsFiles(MpsRoot(mps_machine.root.root), host_ipc=True)
        await mps.load()
        return await NvmlGpus.start(), mps

    monkeypatch.setattr(machine, "find_hardware", find_hardware)
    return machine


async def test_node_from_its_first_slice_to_its_release(
    node: Machine, mps_machine: MpsMachine
) -> None:
    async with mps_machine.supervised(), node.agent():
        await node.applied({"10gb": 2}, {})
        assert mps_machine.ask("get_default_device_pinned_mem_limit 0") == f"{TEN // 1024}G"
        assert (mps_machine.mode(ONE), mps_machine.mode(TWO)) == (EXCLUSIVE, EXCLUSIVE)
        key = await node.run_pod(10)
        client = await asyncio.to_thread(mps_machine.served)
        await node.until(node.holders, "the holder")
        node.lay_out({}, {}, release=True)
        await node.until(lambda: mps_machine.mode(TWO) == DEFAULT, "the other GPU handed back")
        await node.until(
            lambda: node.condition("Released").get("reason") == "SliceInUse", "what is left told"
        )
        assert client.poll() is None
        client.kill()
        node.end_pod(key)
        await node.until(lambda: node.condition("Released")["status"] == "True", "released")
        assert mps_machine.mode(ONE) == DEFAULT
        assert mps_machine.daemon(ONE) is None


async def test_slices_come_once_a_supervisor_does(node: Machine, mps_machine: MpsMachine) -> None:
    async with node.agent():
        generation = node.lay_out({"10gb": 1})
        await node.until(lambda: node.condition("Applied").get("reason") == "Applying", "waiting")
        assert node.slices() == {}
        async with mps_machine.supervised():
            # A daemon that is slow with its first answer is down until its next: a layout that
            # meets it then is acknowledged as not applied, and carved when the daemon is ready.
            await node.until(lambda: node.slices() == {device(1, 10, 0): "Free"}, "the slice")
            await node.acknowledged(generation)
            assert node.condition("Applied")["status"] == "True"


async def test_killed_daemon_is_seen_everywhere_and_comes_back(
    node: Machine, mps_machine: MpsMachine
) -> None:
    mps_machine.want()
    async with mps_machine.supervised(), node.agent():
        await node.applied({"10gb": 1})
        key = await node.run_pod(10)
        await node.until(node.holders, "the holder")
        mps_machine.misbehave("slow")
        daemon = mps_machine.daemon()
        assert daemon
        os.kill(daemon, signal.SIGKILL)
        await node.until(lambda: node.reasons()[0] == "MpsDown", "the NodeLayout")
        await node.until(
            lambda: node.kubelet.devices[resource(10)] == {device(1, 10, 0): False}, "the kubelet"
        )
        waiting = asyncio.create_task(node.kubelet.start_container(resource(10), device(1, 10, 0)))
        mps_machine.misbehave("slow", on=False)
        await waiting
        await node.until(lambda: node.reasons()[0] is None, "its return")
        await node.until(lambda: node.regarding("MpsRestarted") == [key], "the pod's Event")


async def test_fault_is_told_to_its_pods_and_mended(node: Machine, mps_machine: MpsMachine) -> None:
    async with mps_machine.supervised(IMPATIENT), node.agent():
        await node.applied({"10gb": 1})
        key = await node.run_pod(10)
        await node.until(node.holders, "the holder")
        client = await asyncio.to_thread(mps_machine.served)
        (server,) = mps_machine.servers()
        os.kill(server, signal.SIGUSR1)
        await node.until(lambda: node.reasons()[0] == "MpsFault", "the NodeLayout")
        await node.until(lambda: node.regarding("MpsFault") == [key], "the pod's Event")
        assert await asyncio.to_thread(client.wait, DEADLINE) == 9
        await node.until(lambda: node.reasons()[0] is None, "its recovery")
        await node.kubelet.start_container(resource(10), device(1, 10, 0))


async def test_server_of_another_user_is_an_event_and_unhealthy(
    node: Machine, mps_machine: MpsMachine
) -> None:
    async with mps_machine.supervised(IMPATIENT), node.agent():
        await node.applied({"10gb": 1})
        stranger = await asyncio.to_thread(mps_machine.served, STRANGER)
        await node.until(lambda: node.reasons()[0] == "MpsWrongUser", "the NodeLayout")
        await node.until(lambda: node.events("GPUUnhealthy"), "the Event")
        assert f"serves uid {STRANGER} and not {USER}" in node.events("GPUUnhealthy")[0]
        stranger.kill()
        await node.until(lambda: node.reasons()[0] is None, "our own server")


async def test_agent_that_is_away_changes_nothing(node: Machine, mps_machine: MpsMachine) -> None:
    async with mps_machine.supervised(IMPATIENT):
        async with node.agent():
            await node.applied({"10gb": 1})
        found = mps_machine.daemon(), mps_machine.servers()
        at = mps_machine.status().at  # type: ignore[union-attr]  # applied saw it
        await mps_machine.until(
            lambda: (s := mps_machine.status()) and s.at > at + 1, "three more looks"
        )
        assert (mps_machine.daemon(), mps_machine.servers()) == found
        assert mps_machine.mode() == EXCLUSIVE
        async with node.agent():
            await node.applied({"10gb": 2})
        assert (mps_machine.daemon(), mps_machine.servers()) == found
