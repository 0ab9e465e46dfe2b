"""The GPUs as the agent follows them, on real pynvml: health, loss, hangs, and their end."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.errors import DriverHangs, DriverNotLoaded, GpuLost, NoGpus
from nodeagent.gpus import health
from nodeagent.gpus import real as gpus_module
from nodeagent.gpus.health import NVIDIAS_LIST, IgnoredXids, parse_ignored_xids
from nodeagent.gpus.nvml import Nvml
from nodeagent.gpus.processes import pod_uid
from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Gpu, GpuProcess
from tests.nodeagent.nvml.driver import GPU_IS_LOST, RESET_REQUIRED, UNKNOWN, FakeDriver
from tests.waiting import DEADLINE, eventually

ONE, TWO = GpuUuid("GPU-1"), GpuUuid("GPU-2")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(gpus_module, "XID_WAIT", 0.05)
    monkeypatch.setattr(gpus_module, "_CALL", 0.3)


class Followed:
    """The GPUs with everything that was told of them."""

    def __init__(self, gpus: NvmlGpus, driver: FakeDriver) -> None:
        self.gpus = gpus
        self.told: list[Sequence[Gpu]] = []
        self._driver = driver

    async def until(self, *reasons: str | None) -> None:
        def reached() -> bool:
            return [gpu.reason for gpu in self.gpus.read()] == list(reasons)

        await self._until(reached, f"the reasons are {reasons}")

    async def until_registered(self, uuid: str, times: int = 1) -> None:
        """Only of a GPU that is registered are Xids told."""

        def reached() -> bool:
            return self._driver.registrations(uuid) >= times

        await self._until(reached, f"{uuid} is registered for events")

    async def _until(self, reached: Callable[[], bool], what: str) -> None:
        async def ask() -> bool:
            return reached()

        await eventually(ask, what, every=0.005)


@asynccontextmanager
async def following(
    driver: FakeDriver, ignored: IgnoredXids = NVIDIAS_LIST
) -> AsyncIterator[Followed]:
    gpus = await NvmlGpus.start(ignored)
    followed = Followed(gpus, driver)
    task = asyncio.create_task(gpus.follow(followed.told.append))
    try:
        yield followed
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gpus.close()


@pytest.fixture
def two_gpus(driver: FakeDriver) -> FakeDriver:
    driver.gpu(ONE, recovery=0)
    driver.gpu(TWO, recovery=0)
    return driver


async def test_xid_makes_a_gpu_sick_until_a_calm_while_has_passed(
    two_gpus: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(two_gpus) as followed:
        await followed.until_registered(TWO)
        two_gpus.xid(TWO, 48)
        await followed.until(None, "XidError")
        assert followed.gpus.read()[1].detail == "Xid 48"
        monkeypatch.setattr(health, "CALM_SECONDS", 0.1)
        await followed.until(None, None)
    assert [[gpu.reason for gpu in told] for told in followed.told] == [
        [None, "XidError"],
        [None, None],
    ]


async def test_ignored_xids_say_nothing_against_a_gpu(two_gpus: FakeDriver) -> None:
    async with following(two_gpus, parse_ignored_xids("63")) as followed:
        await followed.until_registered(TWO)
        for number in (13, 109, 63):
            two_gpus.xid(ONE, number)
        two_gpus.xid(TWO, 79)
        await followed.until(None, "XidError")
    assert len(followed.told) == 1


async def test_gpu_that_needs_a_reset_is_sick_until_it_had_one(two_gpus: FakeDriver) -> None:
    async with following(two_gpus) as followed:
        two_gpus.gpu(ONE, recovery=1)
        await followed.until("ResetRequired", None)
        two_gpus.gpu(ONE, recovery=0)
        await followed.until(None, None)


async def test_older_driver_tells_of_a_reset_in_its_own_way(driver: FakeDriver) -> None:
    driver.gpu(ONE, reset=1)
    async with following(driver) as followed:
        assert followed.gpus.read()[0].reason == "ResetRequired"
        driver.gpu(ONE, reset=0)
        await followed.until(None)


async def test_lost_gpu_comes_back_and_its_xids_are_seen_again(two_gpus: FakeDriver) -> None:
    async with following(two_gpus) as followed:
        await followed.until_registered(ONE)
        two_gpus.lose(ONE)
        await followed.until("Lost", None)
        two_gpus.find(ONE)
        await followed.until(None, None)
        await followed.until_registered(ONE, times=2)
        two_gpus.xid(ONE, 48)
        await followed.until("XidError", None)


async def test_xids_of_a_gpu_that_came_later_are_seen(driver: FakeDriver) -> None:
    driver.gpu(ONE, recovery=0)
    async with following(driver) as followed:
        await followed.until_registered(ONE)
        driver.gpu(TWO, recovery=0)
        await followed.until_registered(TWO)
        driver.xid(TWO, 48)
        await followed.until(None, "XidError")


async def test_gpu_that_refuses_everything_until_its_reset_is_named_so(
    two_gpus: FakeDriver,
) -> None:
    async with following(two_gpus) as followed:
        two_gpus.fail("nvmlDeviceGetHandleByIndex_v2", RESET_REQUIRED, ONE)
        await followed.until("ResetRequired", None)


async def test_driver_that_hangs_does_not_hang_the_agent(two_gpus: FakeDriver) -> None:
    async with following(two_gpus) as followed:
        two_gpus.hang("nvmlDeviceGetMemoryInfo_v2")
        await followed.until("DriverHangs", "DriverHangs")
        assert "has not answered examine" in followed.gpus.read()[0].detail
        two_gpus.recover()
        await followed.until(None, None)


async def test_gpu_whose_driver_hangs_does_not_hide_the_others(
    two_gpus: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, go_on = Nvml.gpu, threading.Event()

    def slow(nvml: Nvml, index: int) -> Gpu:
        if index == 0:
            assert go_on.wait(DEADLINE)
        return ask(nvml, index)

    async with following(two_gpus) as followed:
        monkeypatch.setattr(Nvml, "gpu", slow)
        await followed.until("DriverHangs", None)
        go_on.set()
        await followed.until(None, None)


async def test_lost_gpu_does_not_hide_the_xids_of_another(
    two_gpus: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML's wait ends for all of them; nobody looks again for a minute here."""
    monkeypatch.setattr(gpus_module, "LOOK_SECONDS", 60.0)
    async with following(two_gpus) as followed:
        await followed.until_registered(TWO)
        two_gpus.fail("nvmlEventSetWait_v2", GPU_IS_LOST)
        await followed.until_registered(TWO, times=2)
        two_gpus.recover()

        async def seen() -> bool:
            two_gpus.xid(TWO, 74)  # what comes while it registers anew is lost
            return [gpu.reason for gpu in followed.gpus.read()] == [None, "XidError"]

        await eventually(seen, "an Xid is seen", every=0.05)


async def test_xid_that_is_told_late_is_told(
    two_gpus: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(two_gpus) as followed:
        await followed.until_registered(ONE)
        two_gpus.hang("nvmlEventSetWait_v2")
        two_gpus.xid(ONE, 48)

        async def given_up() -> bool:
            return "no Xid is seen for now" in caplog.text

        await eventually(given_up, "the wait is given up")
        two_gpus.recover()
        await followed.until("XidError", None)


async def test_mps_server_is_no_process_of_a_pod(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.gpu(ONE)
    for pid in (11, 12):
        driver.process(ONE, pid, 100)
    monkeypatch.setattr(gpus_module, "is_server", lambda pid: pid == 11)
    gpus = await NvmlGpus.start()
    try:
        assert await gpus.processes(ONE) == [GpuProcess(12, "", 100)]
    finally:
        gpus.close()


async def test_xids_that_cannot_be_waited_for_are_waited_for_again(two_gpus: FakeDriver) -> None:
    two_gpus.fail("nvmlEventSetWait_v2", UNKNOWN)
    async with following(two_gpus) as followed:
        await followed.until_registered(ONE, times=2)
        two_gpus.recover()

        async def seen() -> bool:
            two_gpus.xid(ONE, 48)
            return followed.gpus.read()[0].reason == "XidError"

        await eventually(seen, "an Xid is seen", every=0.05)


async def test_gpu_that_reports_no_xids_is_served_all_the_same(driver: FakeDriver) -> None:
    driver.gpu(ONE, events=0)
    driver.gpu(TWO)
    async with following(driver) as followed:
        await followed.until_registered(TWO)
        driver.lose(ONE)
        await followed.until("Lost", None)


async def test_processes_are_read_with_their_pods(driver: FakeDriver) -> None:
    driver.gpu(ONE)
    driver.process(ONE, os.getpid(), 512)
    async with following(driver) as followed:
        assert await followed.gpus.processes(ONE) == [
            GpuProcess(os.getpid(), pod_uid(os.getpid()), 512)
        ]
        driver.lose(ONE)
        with pytest.raises(GpuLost):
            await followed.gpus.processes(ONE)


async def test_start_fails_with_what_is_wrong(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoGpus, match="shows no GPU; see nvidia-smi"):
        await NvmlGpus.start()
    driver.gpu(ONE)
    driver.add("driver absent")
    with pytest.raises(DriverNotLoaded):
        await NvmlGpus.start()
    monkeypatch.setattr(gpus_module, "_INIT", 0.05)
    driver.hang("nvmlInitWithFlags")
    with pytest.raises(DriverHangs, match="Nvml within"):
        await NvmlGpus.start()
