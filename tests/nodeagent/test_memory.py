"""GPU memory by pod: who counts for whom, and who is told when it is too much."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import PODS
from mpslice.slices import SliceSize
from nodeagent.errors import GpuLost
from nodeagent.gpus import memory
from nodeagent.gpus.memory import MemorySampler, PodMemory, memory_by_pod
from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Gpu, GpuProcess
from nodeagent.metrics import Metrics
from nodeagent.settings import Settings
from nodeagent.simulation import SimulatedGpus
from nodeagent.slices.evidence import Holder
from tests.nodeagent.conftest import AMPERE, Machine
from tests.nodeagent.nvml.driver import FakeDriver
from tests.waiting import eventually

A = Gpu(GpuUuid("GPU-a"), 0, "A100", 81920, 626, AMPERE)
B = Gpu(GpuUuid("GPU-b"), 1, "A100", 81920, 626, AMPERE)
LIMIT = 9533  # MiB of a 10gb slice there


def slice_(gpu: Gpu = A, size: int = 10, ordinal: int = 0) -> DeviceId:
    return DeviceId(gpu.uuid, SliceSize(size), ordinal)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("n1", tmp_path, tmp_path / "p.sock", tmp_path / "mps", None)


def test_processes_of_a_pod_add_up(settings: Settings) -> None:
    processes = [
        GpuProcess(1, "uid-a", 4000),
        GpuProcess(2, "uid-a", 5000),
        GpuProcess(3, "uid-b", 100),
        GpuProcess(4, "", 30),  # the MPS server's own
    ]
    holders = {
        slice_(): Holder("ns/a", "main", "uid-a"),
        slice_(ordinal=1): Holder("ns/b", "main", "uid-b"),
        slice_(B): Holder("ns/c", "main", "uid-c"),
        slice_(ordinal=2): Holder(),  # allocated, and it is not known yet for whom
    }
    assert memory_by_pod(A, processes, holders, settings) == [
        PodMemory(0, "ns/a", "uid-a", 9000, LIMIT),
        PodMemory(0, "ns/b", "uid-b", 100, LIMIT),
    ]


def test_slices_of_a_pod_add_up_too(settings: Settings) -> None:
    holders = {
        slice_(): Holder("ns/a", "one", "uid-a"),
        slice_(ordinal=1): Holder("ns/a", "two", "uid-a"),
    }
    (found,) = memory_by_pod(A, [], holders, settings)
    assert (found.used_mib, found.limit_mib) == (0, 2 * LIMIT)


@pytest.mark.parametrize(("used", "exceeds"), [(LIMIT, False), (LIMIT + 1, True)])
def test_more_than_the_slice_exceeds(used: int, *, exceeds: bool) -> None:
    assert PodMemory(0, "ns/a", "uid-a", used, LIMIT).exceeds is exceeds


class Measured(SimulatedGpus):
    """GPUs with processes of the test's."""

    def __init__(self, *processes: GpuProcess) -> None:
        self._gpus = (A, B)
        self.found: Sequence[GpuProcess] = processes
        self.asked: list[GpuUuid] = []
        self.lost = False

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        self.asked.append(gpu)
        if self.lost:
            raise GpuLost("gone")
        return self.found


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SAMPLE_SECONDS", 0.01)


async def test_excess_is_told_once_until_it_has_ended(hurry: None, settings: Settings) -> None:
    gpus = Measured(GpuProcess(1, "uid-a", LIMIT + 1))
    told: list[PodMemory] = []
    holders = {slice_(): Holder("ns/a", "main", "uid-a")}
    sampler = MemorySampler(gpus, {A.uuid: A, B.uuid: B}, holders, settings, told.append)
    sampling = asyncio.create_task(sampler.run())

    async def asked_often() -> bool:
        return len(gpus.asked) > 5

    async def calm() -> bool:
        return sampler.samples[0].used_mib == 0

    async def told_again() -> bool:
        return len(told) == 2

    await eventually(asked_often, "several samples", every=0.002)
    assert len(told) == 1
    assert set(gpus.asked) == {A.uuid}  # nobody has slices on the other
    excess, gpus.found = gpus.found, []
    await eventually(calm, "calm", every=0.002)
    gpus.found = excess
    await eventually(told_again, "told again", every=0.002)
    sampling.cancel()
    assert "9534 MiB of GPU 0 and its slice is 9533 MiB" in told[0].message


async def test_excess_is_no_news_after_a_gpu_has_not_answered(
    hurry: None, settings: Settings
) -> None:
    gpus = Measured(GpuProcess(1, "uid-a", LIMIT + 1))
    told: list[PodMemory] = []
    holders = {slice_(): Holder("ns/a", "main", "uid-a")}
    sampler = MemorySampler(gpus, {A.uuid: A, B.uuid: B}, holders, settings, told.append)
    sampling = asyncio.create_task(sampler.run())

    async def as_it_answers() -> bool:
        return bool(sampler.samples) is not gpus.lost

    for lost in (False, True, False):
        gpus.lost = lost
        await eventually(as_it_answers, "another sample", every=0.002)
    sampling.cancel()
    assert len(told) == 1


async def test_gpu_that_does_not_answer_has_no_samples(hurry: None, settings: Settings) -> None:
    gpus = Measured(GpuProcess(1, "uid-a", 5))
    holders = {slice_(): Holder("ns/a", "main", "uid-a")}
    sampler = MemorySampler(gpus, {A.uuid: A, B.uuid: B}, holders, settings, lambda _: None)
    sampling = asyncio.create_task(sampler.run())

    async def sampled() -> bool:
        return bool(sampler.samples)

    async def none() -> bool:
        return not sampler.samples

    await eventually(sampled, "a sample", every=0.002)
    gpus.lost = True
    await eventually(none, "no sample", every=0.002)
    assert not sampling.done()
    sampling.cancel()


def test_metric_names_node_gpu_and_pod() -> None:
    metrics = Metrics("n1")
    metrics.watch_memory(lambda: [PodMemory(3, "team/train-0", "uid", 100, 200, 150)])
    text = generate_latest(metrics.registry).decode()
    labels = '{gpu="3",namespace="team",node="n1",pod="train-0"}'
    assert f"mpslice_slice_memory_used_bytes{labels} 1.048576e+08" in text
    assert f"mpslice_slice_memory_limit_bytes{labels} 2.097152e+08" in text
    assert f"mpslice_slice_memory_peak_bytes{labels} 1.572864e+08" in text


async def test_peak_of_a_pod_outlasts_what_it_uses_and_ends_with_its_slice(
    hurry: None, settings: Settings
) -> None:
    gpus = Measured(GpuProcess(1, "uid-a", 700))
    holders = {slice_(): Holder("ns/a", "main", "uid-a")}
    sampler = MemorySampler(gpus, {A.uuid: A, B.uuid: B}, holders, settings, lambda _: None)
    sampling = asyncio.create_task(sampler.run())

    def shows(*wanted: tuple[int, int]) -> Callable[[], Awaitable[bool]]:
        async def shown() -> bool:
            return tuple((s.used_mib, s.peak_mib) for s in sampler.samples) == wanted

        return shown

    await eventually(shows((700, 700)), "the first sample", every=0.002)
    gpus.found = [GpuProcess(1, "uid-a", 5)]
    await eventually(shows((5, 700)), "less use", every=0.002)
    gpus.lost = True
    await eventually(shows(), "no answer", every=0.002)
    gpus.lost = False
    await eventually(shows((5, 700)), "an answer again", every=0.002)
    holders.clear()
    await eventually(shows(), "no holder", every=0.002)
    holders[slice_()] = Holder("ns/a", "main", "uid-a")
    await eventually(shows((5, 5)), "a peak of its own", every=0.002)
    sampling.cancel()


async def test_memory_of_a_pod_is_what_the_driver_says_of_its_processes(
    driver: FakeDriver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.gpus.real.pod_uid", lambda pid: f"uid-{pid}")
    driver.gpu(A.uuid, memory=81920, reserved=626)
    driver.process(A.uuid, os.getpid(), 512)
    gpus = await NvmlGpus.start()
    holders = {slice_(): Holder("ns/a", "main", f"uid-{os.getpid()}")}
    sampler = MemorySampler(
        gpus, {gpu.uuid: gpu for gpu in gpus.read()}, holders, settings, lambda _: None
    )
    sampling = asyncio.create_task(sampler.run())

    async def sampled() -> bool:
        return [(s.used_mib, s.limit_mib) for s in sampler.samples] == [(512, LIMIT)]

    await eventually(sampled, "a sample", every=0.002)
    sampling.cancel()
    gpus.close()


async def test_pod_that_uses_more_than_its_slice_gets_an_event(
    hurry: None, machine: Machine
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        uid = machine.kube.get(PODS, key.partition("/")[2], "default")["metadata"]["uid"]
        machine.processes = [GpuProcess(1, uid, 9000), GpuProcess(2, uid, 1000)]
        await machine.until(lambda: machine.events("SliceMemoryExceeded"), "the Event")
    assert "use 10000 MiB of GPU 0" in machine.events("SliceMemoryExceeded")[0]
