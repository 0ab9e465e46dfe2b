"""Registration with a kubelet that comes, goes and cuts off, over real sockets."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.errors import AgentError
from nodeagent.hardware import Gpu
from nodeagent.kubelet.link import remove_left_sockets
from nodeagent.kubelet.plugin import Endpoint
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as api
from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub
from nodeagent.local import LocalNode
from nodeagent.settings import Settings
from nodeagent.simulation import SimulatedGpus
from tests.nodeagent.conftest import AMPERE, device, gpu, resource
from tests.nodeagent.fake_kubelet import STOP_GRACE, AdmissionError, FakeKubelet
from tests.nodeagent.fake_mps import FakeMps
from tests.waiting import DEADLINE, eventually

SIZES = frozenset(SliceSize(n) for n in (10, 20, 40))
COMING = DeviceId.parse(device(1, 5, 0))
IDS = [DeviceId.parse(device(1, size, n)) for size, n in ((10, 0), (10, 1), (20, 0), (40, 0))]


@pytest.fixture
def mps() -> FakeMps:
    return FakeMps()


class OneGpu(SimulatedGpus):
    def __init__(self) -> None:
        self._gpus = (Gpu(GpuUuid(gpu(1)), 0, "A100", 81920, 626, AMPERE),)


@pytest.fixture
async def local(short_path: Path, kubelet: FakeKubelet, mps: FakeMps) -> AsyncIterator[LocalNode]:
    settings = Settings(
        node_name="n1",
        device_plugin_dir=kubelet.directory,
        pod_resources_socket=kubelet.pod_resources_socket,
        mps_root=short_path / "mps",
        ops_listen=None,
        cdi_dir=short_path / "cdi",
    )
    async with LocalNode(settings, OneGpu(), mps) as local:
        local.table.adopt(IDS)
        yield local


def withdraw(local: LocalNode, *ids: DeviceId) -> None:
    local.table.close(ids)
    local.table.retire(ids)
    local.table.remove(ids)


@asynccontextmanager
async def serving(local: LocalNode) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        await local.serve_early(tasks)
        yield
        await local.handoff.link.stop()
        for task in tasks._tasks:
            task.cancel()


async def knows(kubelet: FakeKubelet, count: int = len(IDS)) -> None:
    async def probe() -> bool:
        return sum(len(kubelet.healthy(resource(size))) for size in SIZES) == count

    await eventually(probe, f"{count} devices", every=0.002)


async def registered(kubelet: FakeKubelet, name: str) -> None:
    async def probe() -> bool:
        return name in kubelet.registrations

    await eventually(probe, f"{name} registered", every=0.002)


async def test_every_size_is_registered_with_both_options(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    async with serving(local):
        await knows(kubelet)
        assert sorted(kubelet.registrations) == sorted(map(resource, SIZES))
        options = [client.options for client in kubelet._clients.values()]
    assert all(o.pre_start_required and o.get_preferred_allocation_available for o in options)


async def test_new_kubelet_is_told_within_milliseconds(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    """Pods that it admits before are Failed for good (trap B); the first admission is at 0.5 s."""
    took: list[float] = []
    async with serving(local):
        await knows(kubelet)
        while len(took) < 10 and min(took, default=1.0) >= 0.4:  # the machine may be busy
            await kubelet.restart()
            started = asyncio.get_running_loop().time()
            await knows(kubelet)
            took.append(asyncio.get_running_loop().time() - started)
        assert min(took) < 0.4
        assert len(kubelet.registrations) == (1 + len(took)) * len(SIZES)
        assert kubelet.overlaps == 0


async def test_new_size_is_no_sign_of_another_kubelet(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    """Who holds what is read again after a new kubelet, and would be in the new size's way."""
    link = local.handoff.link
    async with serving(local):
        await knows(kubelet)
        before = link.reconnected.count
        assert before == 1
        local.handoff.expect([COMING])
        await link.until_live(frozenset({COMING.size}), 10)
        assert link.reconnected.count == before
        await kubelet.restart()
        await knows(kubelet)
        assert link.reconnected.count > before


async def test_list_is_told_once_it_has_been_taken(local: LocalNode, short_path: Path) -> None:
    """What is asked of the kubelet before may be answered without it."""
    service = local.handoff.link._service
    endpoint = Endpoint(SliceSize(10), short_path / "x.sock", service)
    lists = endpoint.lists()
    assert [listed.id for listed in await anext(lists)] == IDS[:2]
    assert endpoint.told_of < service.changed.count
    later = asyncio.ensure_future(anext(lists))
    await asyncio.wait_for(endpoint.told.after(0), DEADLINE)
    assert endpoint.told_of == service.changed.count
    local.table.close(IDS[:1])
    local.table.retire(IDS[:1])
    assert [listed.healthy for listed in await later] == [False, True]
    assert endpoint.told_of < service.changed.count
    await lists.aclose()


async def test_kubelet_is_told_of_a_change_before_it_is_asked_for_it(
    local: LocalNode, kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.kubelet.link._SHORTLY", DEADLINE)
    async with serving(local):
        await knows(kubelet)
        lists = len(kubelet.lists)
        withdraw(local, *IDS[2:])
        await local.handoff.link.until_told(SIZES)

        async def probe() -> bool:
            return len(kubelet.lists) == lists + 2

        await eventually(probe, "both lists", every=0.002)
        assert kubelet.healthy(resource(20)) == kubelet.healthy(resource(40)) == set()


async def test_size_that_never_had_a_slice_is_left_to_another_plugin(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    link, coming = local.handoff.link, frozenset({COMING.size})
    async with serving(local):
        await knows(kubelet)
        local.handoff.expect([COMING])
        await link.until_live(coming, 10)
        await local.handoff.leave()
        assert (link.live(coming), link.live(SIZES)) == (False, True)


async def test_kubelet_that_was_away_is_told_when_it_comes(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    await kubelet.stop()
    async with serving(local):
        assert kubelet.registrations == []
        await kubelet.start()
        await knows(kubelet)


async def test_kubelet_that_is_bound_before_it_listens_is_tried_again_at_once(
    local: LocalNode,
    kubelet: FakeKubelet,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long the kubelet before it, whose socket was left behind, refused to answer.

    Without that, the next try would come a second later at the earliest.
    """
    monkeypatch.setattr("nodeagent.kubelet.link._AGAIN", 0.008)
    caplog.set_level("INFO", "nodeagent.kubelet.link")
    await kubelet.stop()

    def failures() -> int:
        return sum(record.message.startswith("not registered") for record in caplog.records)

    async def failed(count: int) -> None:
        async def probe() -> bool:
            return failures() >= count

        await eventually(probe, f"{count} failures", every=0.002)

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(kubelet.socket))
    withdraw(local, *IDS[2:])
    with socket.socket(socket.AF_UNIX) as listener:
        async with serving(local):
            await failed(8 * len(SIZES))
            kubelet.socket.unlink()
            before = failures()
            listener.bind(str(kubelet.socket))
            await failed(before + len(SIZES))
            listener.listen()
            listener.setblocking(False)
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_accept(listener), 0.8)


async def test_stand_in_counts_what_an_ended_plugin_listed_for_five_minutes(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    """As the kubelet does: devicemanager/manager.go, GetCapacity."""
    there = {resource(10): 2, resource(20): 1, resource(40): 1}
    nothing = dict.fromkeys(there, 0)
    async with serving(local):
        await knows(kubelet)
        assert kubelet.count() == (there, there)
    await knows(kubelet, 0)
    ended = time.monotonic()
    assert kubelet.count() == (there, nothing)
    kubelet.clock = lambda: ended + STOP_GRACE - 60
    assert kubelet.count() == (there, nothing)
    kubelet.clock = lambda: ended + STOP_GRACE + 1
    assert kubelet.count() == (nothing, nothing)


async def test_size_that_was_cut_off_is_registered_again_alone(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    async with serving(local):
        await knows(kubelet)
        kubelet.registrations.clear()
        await kubelet.disconnect(resource(20))
        await registered(kubelet, resource(20))
        await knows(kubelet)
        assert kubelet.registrations == [resource(20)]
        assert kubelet.overlaps == 0


async def test_size_that_is_cut_off_over_and_over_is_registered_ever_more_slowly(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    withdraw(local, *IDS[2:])
    cuts: list[asyncio.Task[None]] = []
    kubelet.on_list = lambda name: cuts.append(asyncio.create_task(kubelet.disconnect(name)))
    started = asyncio.get_running_loop().time()
    async with serving(local):

        async def probe() -> bool:
            return kubelet.registrations.count(resource(10)) >= 10

        await eventually(probe, "ten registrations", every=0.002)
    # Nine pauses, the first of 2 ms and each twice as long; jitter halves them at most.
    assert asyncio.get_running_loop().time() - started > 0.001 * (2**9 - 1)
    await asyncio.gather(*cuts, return_exceptions=True)


async def test_live_stream_is_never_registered_beside(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    """The end of the older stream would disconnect the newer client (trap F)."""
    async with serving(local):
        await knows(kubelet)
        for _ in range(5):
            local.table.close(IDS[:1])
            local.table.retire(IDS[:1])
            local.table.restore(IDS[:1])
            await asyncio.sleep(0)
        await knows(kubelet)
    assert kubelet.overlaps == 0
    assert len(kubelet.registrations) == len(SIZES)


async def test_each_change_is_a_whole_list_on_the_same_stream(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    async with serving(local):
        await knows(kubelet)
        withdraw(local, *IDS[:2])
        await knows(kubelet, len(IDS) - 2)
        assert kubelet.devices[resource(10)] == {}
        local.table.carve(IDS[:1])
        await knows(kubelet, len(IDS) - 1)
    assert len(kubelet.registrations) == len(SIZES)


async def test_allocate_answers_the_same_twice(local: LocalNode, kubelet: FakeKubelet) -> None:
    """Init and app containers of a pod reuse an id (trap J)."""
    async with serving(local):
        await knows(kubelet)
        first = await kubelet.allocate_again(resource(10), device(1, 10, 1))
        second = await kubelet.allocate_again(resource(10), device(1, 10, 1))
    assert first == second
    assert dict(first.envs)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9533M"
    (mount,) = first.mounts
    assert mount.container_path == "/run/mpslice/pipe"
    assert mount.host_path.endswith(f"/mps/{gpu(1)}/pipe")
    assert not mount.read_only


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (device(1, 10, 7), "was withdrawn"),
        (device(2, 10, 0), "was withdrawn"),
        ("nonsense", "is not <GPU UUID>"),
    ],
)
async def test_allocate_of_what_does_not_stand_is_an_error(
    local: LocalNode, kubelet: FakeKubelet, text: str, what: str
) -> None:
    async with serving(local):
        await knows(kubelet)
        with pytest.raises(AdmissionError, match=what):
            await kubelet.allocate_again(resource(10), text)


async def test_two_slices_for_a_container_are_refused(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    async with serving(local):
        await knows(kubelet)
        client = kubelet._clients[resource(10)]
        with pytest.raises(AdmissionError, match="one larger slice"):
            await kubelet._allocate(client, [device(1, 10, 0), device(1, 10, 1)])


async def test_preference_is_that_of_the_planner(local: LocalNode, kubelet: FakeKubelet) -> None:
    async with serving(local):
        await knows(kubelet)
        await kubelet.admit("ns/a", resource(10))
    assert kubelet.admitted[0].ids == [device(1, 10, 0)]


async def test_preference_never_fails(local: LocalNode, kubelet: FakeKubelet) -> None:
    """Its error would fail the pod (trap J)."""
    async with serving(local):
        await knows(kubelet)
        wanted = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=["x", "y"], must_include_deviceIDs=["y"], allocation_size=2
        )
        request = api.PreferredAllocationRequest(container_requests=[wanted])
        answer = await kubelet._clients[resource(10)].api.GetPreferredAllocation(request)
    assert list(answer.container_responses[0].deviceIDs) == ["y", "x"]


async def test_container_waits_for_the_daemon_and_finds_its_directory(
    local: LocalNode, kubelet: FakeKubelet, mps: FakeMps
) -> None:
    mps.ready.clear()
    async with serving(local):
        await knows(kubelet)
        admission = asyncio.create_task(kubelet.admit("ns/a", resource(10)))

        async def asked() -> bool:
            return bool(mps.asked)

        await eventually(asked, "the daemon is asked for", every=0.002)
        assert not admission.done()
        assert local.settings.pipe_directory(GpuUuid(gpu(1))).is_dir()
        mps.ready.set()
        await admission
    assert mps.asked == [gpu(1)]


async def test_container_is_refused_when_the_daemon_does_not_come(
    local: LocalNode, kubelet: FakeKubelet, mps: FakeMps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.kubelet.service.READY_SECONDS", 0.05)
    mps.ready.clear()
    async with serving(local):
        await knows(kubelet)
        with pytest.raises(grpc.aio.AioRpcError, match=r"MPS daemon of GPU-.* is not ready"):
            await kubelet.admit("ns/a", resource(10))


async def test_stopping_takes_the_sockets_away(local: LocalNode, kubelet: FakeKubelet) -> None:
    async with serving(local):
        await knows(kubelet)
        assert len(list(kubelet.directory.glob("mpslice-*.sock"))) == len(SIZES)
    assert list(kubelet.directory.glob("mpslice-*.sock")) == []


def test_sockets_of_killed_agents_are_removed_and_no_others(short_path: Path) -> None:
    dead, alive, other = (
        short_path / name for name in ("mpslice-a.sock", "mpslice-b.sock", "x.sock")
    )
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as gone:
        listener.bind(str(alive))
        listener.listen()
        gone.bind(str(dead))
        other.touch()
        gone.close()
        remove_left_sockets(short_path)
    assert (dead.exists(), alive.exists(), other.exists()) == (False, True, True)


async def test_kubelet_that_refuses_calls_for_a_while_is_asked_again(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    """PodResources answers 100 calls a second and refuses more."""
    kubelet.refusals = 3
    async with serving(local):
        await knows(kubelet)
        assert await local.handoff.pod_resources.allocatable() == frozenset(IDS)
        await kubelet.admit("ns/a", resource(10))
        (claim,) = await local.handoff.pod_resources.list()
    assert (claim.pod, claim.container, str(claim.id)) == ("ns/a", "main", device(1, 10, 0))


async def test_absent_kubelet_is_an_error_and_found_again(
    local: LocalNode, kubelet: FakeKubelet
) -> None:
    await kubelet.stop()
    with pytest.raises(AgentError, match="PodResources on"):
        await local.handoff.pod_resources.list()
    await kubelet.start()
    assert await local.handoff.pod_resources.list() == ()


async def test_go_clients_authority_is_accepted(local: LocalNode, kubelet: FakeKubelet) -> None:
    """The kubelet dials WithAuthority("localhost")."""
    async with serving(local):
        await knows(kubelet)
        path = next(iter(kubelet.directory.glob("mpslice-*.sock")))
        options = (("grpc.default_authority", "localhost"),)
        async with grpc.aio.insecure_channel(f"unix:{path}", options) as channel:
            stub = DevicePluginStub(channel)
            assert (await stub.GetDevicePluginOptions(api.Empty())).pre_start_required  # type: ignore[misc]
