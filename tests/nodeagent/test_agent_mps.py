"""What the agent asks of MPS daemons, and what it makes of how they fare."""

from collections.abc import Mapping

import pytest

from mpslice.gpus import GpuUuid
from mpslice.kube.api import NODES
from nodeagent.hardware import Backstop, Gpus, MpsControl, MpsHealth
from nodeagent.metrics import Metrics
from nodeagent.mps.errors import MpsRootUnwritable
from tests.nodeagent.conftest import NODE, Machine, MachineGpus, device, gpu, resource
from tests.nodeagent.fake_mps import FakeMps

TEN, TWENTY = 9533, 19067  # MiB of an A100's slices


@pytest.fixture
def mps(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> FakeMps:
    mps = FakeMps()

    async def find_hardware() -> tuple[Gpus, MpsControl]:
        return MachineGpus(machine), mps

    monkeypatch.setattr(machine, "find_hardware", find_hardware)
    return mps


def held(mps: FakeMps) -> dict[str, tuple[int, bool]]:
    return {uuid: (backstop.limit_mib, backstop.used) for uuid, backstop in mps.held.items()}


async def test_daemon_grants_the_largest_slice_before_the_kubelet_hears_of_it(
    machine: Machine, mps: FakeMps
) -> None:
    early: list[str] = []

    def check(backstops: Mapping[GpuUuid, Backstop]) -> None:
        for size, limit in ((10, TEN), (20, TWENTY)):
            known = machine.kubelet.healthy(resource(size))
            if known and limit > max(mps.held[GpuUuid(gpu(1))].limit_mib, 1):
                early.append(f"{size}gb: {known}")

    mps.on_hold = check
    async with machine.agent():
        await machine.applied({"10gb": 2}, {})
        assert held(mps) == {gpu(1): (TEN, False), gpu(2): (1, False)}
        await machine.applied({"10gb": 2, "20gb": 1}, {})
        assert held(mps) == {gpu(1): (TWENTY, False), gpu(2): (1, False)}
        await machine.applied({"10gb": 2}, {})
        await machine.until(lambda: held(mps)[gpu(1)] == (TEN, False), "lowered")
    assert early == []


async def test_daemon_is_told_whether_its_slices_are_used(machine: Machine, mps: FakeMps) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(lambda: held(mps)[gpu(1)] == (TEN, True), "used")
        machine.end_pod(key)
        await machine.until(lambda: held(mps)[gpu(1)] == (TEN, False), "free")


async def test_slice_waits_for_a_daemon_that_starts(machine: Machine, mps: FakeMps) -> None:
    mps.starting.add(GpuUuid(gpu(1)))
    async with machine.agent():
        generation = machine.lay_out({"10gb": 1}, {"20gb": 1})
        await machine.until(lambda: machine.slices() == {device(2, 20, 0): "Free"}, "the other")
        assert machine.status()["observedGeneration"] != generation
        assert machine.condition("Applied")["reason"] == "Applying"
        assert "MPS daemon" in machine.condition("Applied")["message"]
        assert machine.kubelet.healthy(resource(10)) == set()
        assert [entry["healthy"] for entry in machine.status()["gpus"]] == [True, True]
        mps.start(gpu(1))
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["status"] == "True"
        assert set(machine.slices()) == {device(1, 10, 0), device(2, 20, 0)}


@pytest.mark.parametrize("reason", ["MpsDown", "MpsFault", "MpsWrongUser"])
async def test_daemon_that_does_not_serve_is_seen_everywhere_and_so_is_its_return(
    machine: Machine, mps: FakeMps, reason: str
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        mps.become(gpu(1), MpsHealth(ready=False, reason=reason, detail="because"))
        await machine.until(lambda: machine.reasons() == [reason, None], "the NodeLayout")
        await machine.until(lambda: machine.allocatable() == {resource(10): "1"}, "the node")
        healthy = {device(1, 10, 0): False, device(2, 10, 0): True}
        await machine.until(lambda: machine.kubelet.devices[resource(10)] == healthy, "the kubelet")
        await machine.until(lambda: machine.events("GPUUnhealthy"), "the Event")
        assert machine.events("GPUUnhealthy")[0].endswith(f"is unhealthy: {reason}: because")
        mps.become(gpu(1), MpsHealth())
        await machine.until(lambda: machine.allocatable() == {resource(10): "2"}, "its return")
        await machine.until(lambda: machine.events("GPUHealthy"), "the Event")


async def test_gpu_is_held_on_while_its_daemon_does_not_serve(
    machine: Machine, mps: FakeMps
) -> None:
    """Its clients may live on, and only a held daemon is started again."""
    async with machine.agent():
        await machine.applied({"10gb": 1})
        mps.become(gpu(1), MpsHealth(ready=False, reason="MpsDown"))
        await machine.until(lambda: machine.reasons()[0] == "MpsDown", "it told")
        await machine.applied({})
        assert gpu(1) in held(mps)


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (MpsHealth(ready=False, reason="MpsFault", detail="why"), "MpsFault"),
        (MpsHealth(restarts=1), "MpsRestarted"),
    ],
)
async def test_each_pod_on_the_gpu_is_told_what_became_of_its_daemon(
    machine: Machine, mps: FakeMps, health: MpsHealth, reason: str
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2, "20gb": 1}, {"10gb": 1})
        pods = [await machine.run_pod(10), await machine.run_pod(20)]
        await machine.until(lambda: len(machine.holders()) == 2, "holders")
        mps.become(gpu(1), health)
        await machine.until(lambda: len(machine.events(reason)) == 2, "the Events")
        mps.become(gpu(1), health)
        mps.become(gpu(2), health)
        regarding = machine.regarding(reason)
        assert sorted(regarding) == sorted(pods)


async def test_trouble_with_the_daemons_files_is_told_and_waited_out(
    machine: Machine, mps: FakeMps
) -> None:
    def refuse(_: object) -> None:
        raise MpsRootUnwritable("no room")

    async with machine.agent() as agent:
        await machine.applied({"10gb": 1})
        mps.on_hold = refuse
        machine.lay_out({"10gb": 2})
        await machine.until(
            lambda: machine.condition("Ready").get("reason") == "MpsRootUnwritable", "told"
        )
        assert machine.condition("Ready")["message"] == "no room"
        assert set(machine.slices()) == {device(1, 10, 0)}
        mps.on_hold = lambda _: None
        await machine.acknowledged(2)
        assert machine.condition("Ready")["status"] == "True"
        assert not agent.done()


async def test_node_is_released_once_its_daemons_have_ended(machine: Machine, mps: FakeMps) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {})
        mps.ending.add(GpuUuid(gpu(1)))
        await machine.acknowledged(machine.lay_out({"10gb": 1}, release=True))
        assert mps.held == {}
        assert machine.condition("Released")["reason"] == "MpsStopping"
        assert gpu(1) in machine.condition("Released")["message"]
        mps.end(gpu(1))
        await machine.until(lambda: machine.condition("Released")["status"] == "True", "released")


async def test_gpu_of_a_used_slice_is_held_until_its_pod_ends(
    machine: Machine, mps: FakeMps
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2}, {"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.lay_out({}, {}, release=True)
        await machine.until(lambda: held(mps) == {gpu(1): (TEN, True)}, "the other handed back")
        machine.end_pod(key)
        await machine.until(lambda: held(mps) == {}, "all of it")


async def test_gpu_in_use_that_does_not_show_is_held_until_the_node_is_released(
    machine: Machine, mps: FakeMps
) -> None:
    """The end of its daemon would be the end of its clients, whom only the driver does not see."""
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        for _ in range(2):
            await machine.run_pod(10)
        await machine.until(lambda: len(machine.holders()) == 2, "holders")
        await machine.until(lambda: held(mps)[gpu(2)] == (TEN, True), "told of it")
    machine.write_gpus({})
    async with machine.agent():
        await machine.applied({"10gb": 1, "20gb": 1})
        assert held(mps) == {gpu(1): (TWENTY, True), gpu(2): (TEN, True)}
        machine.lay_out({}, release=True)
        await machine.until(lambda: held(mps) == {gpu(1): (TEN, True)}, "handed back")


async def test_gpu_that_is_left_alone_is_not_held(machine: Machine, mps: FakeMps) -> None:
    machine.kube.change(
        NODES, NODE, {"metadata": {"annotations": {"mpslice.io/exclude-gpus": "1"}}}
    )
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert set(held(mps)) == {gpu(1)}


async def test_nothing_is_asked_without_a_layout(machine: Machine, mps: FakeMps) -> None:
    """Whatever an earlier agent asked for stays."""
    calls: list[object] = []
    mps.on_hold = calls.append
    async with machine.agent():
        await machine.until(lambda: machine.kubelet.running, "kubelet")
        await machine.until(lambda: machine.kube.get(NODES, NODE), "the node")
        assert calls == []


async def test_metrics_tell_of_each_daemon(mps: FakeMps) -> None:
    metrics = Metrics("n1")
    await mps.hold({GpuUuid(gpu(1)): Backstop(1), GpuUuid(gpu(2)): Backstop(1)})
    mps.become(gpu(2), MpsHealth(ready=False, restarts=3))
    metrics.watch_mps(mps.health, dict)
    value = metrics.registry.get_sample_value
    for number, up, restarts in ((1, 1.0, 0.0), (2, 0.0, 3.0)):
        labels = {"node": "n1", "gpu": gpu(number)}
        assert value("mpslice_mps_daemon_up", labels) == up
        assert value("mpslice_mps_daemon_restarts_total", labels) == restarts
