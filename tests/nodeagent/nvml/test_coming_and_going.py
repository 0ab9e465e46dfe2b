"""A driver that comes late, goes and comes back, or is to be left alone for a GPU's reset."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from nodeagent import waiting
from nodeagent.agent import ClosableKube
from nodeagent.driver.closing import Closing, processes_with
from nodeagent.errors import AgentError, DriverClosed, DriverReplaced, NoGpus
from nodeagent.gpus import real
from nodeagent.gpus.nvml import Nvml
from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Gpu
from nodeagent.mps.modes import open_compute_modes
from nodeagent.settings import DeviceListStrategy, Settings
from tests.nodeagent.nvml.driver import (
    DRIVER_NOT_LOADED,
    NOT_SUPPORTED,
    VERSION_MISMATCH,
    FakeDriver,
)
from tests.waiting import DEADLINE, eventually

GPU = GpuUuid("GPU-00000000-0000-0000-0000-000000000001")
SETTINGS = Settings("n1", Path("/none"), Path("/none/s"), Path("/none/m"), ops_listen=None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
    monkeypatch.setattr(real, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(real, "XID_WAIT", 0.02)
    monkeypatch.setattr(waiting, "AGAIN", 0.02)
    driver.gpu(GPU, memory=81920, reserved=626)


@asynccontextmanager
async def followed(
    may_use: Callable[[], None] = lambda: None,
) -> AsyncIterator[tuple[NvmlGpus, "asyncio.Task[None]"]]:
    gpus = await NvmlGpus.start(may_use=may_use)
    task: asyncio.Task[None] = asyncio.create_task(gpus.follow(lambda _: None))
    try:
        yield gpus, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gpus.close()


async def until_reason(gpus: NvmlGpus, reason: str | None) -> Gpu:
    async def has() -> Gpu | None:
        (gpu,) = gpus.read()
        return gpu if gpu.reason == reason else None

    found = await eventually(has, f"the reason {reason}")
    assert found is not None
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether this test's NVML is initialised."""
    count = 0
    begin, close, reopen = Nvml.__init__, Nvml.close, Nvml.reopen

    def counting(function: Callable[..., None], change: int) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal count
            function(*arguments)
            count += change

        return call

    monkeypatch.setattr(Nvml, "__init__", counting(begin, 1))
    monkeypatch.setattr(Nvml, "close", counting(close, -1))
    monkeypatch.setattr(Nvml, "reopen", counting(reopen, 2))  # which closes it first
    return lambda: count > 0


async def test_driver_that_comes_late_is_waited_for_and_told_of_once(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def report(connect: object, node: str, error: AgentError) -> None:
        told.append(error.condition)
        if len(told) == 2:
            driver.recover()

    monkeypatch.setattr("nodeagent.failure.report_failure", report)
    driver.fail("nvmlInitWithFlags", DRIVER_NOT_LOADED)

    tries = 0

    async def start() -> NvmlGpus:
        nonlocal tries
        tries += 1
        if tries == 5:
            driver.recover()
            driver.fail("nvmlDeviceGetMemoryInfo_v2", NOT_SUPPORTED)
        return await NvmlGpus.start()

    async with asyncio.timeout(DEADLINE):
        gpus = await waiting.gpus_in_time(SETTINGS, connect, start)
    assert [gpu.uuid for gpu in gpus.read()] == [GPU]
    assert told == ["DriverNotLoaded", "NoGpus"]
    gpus.close()


async def test_gpus_that_no_cdi_device_names_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[], bool]
) -> None:
    spec = {"kind": "management.nvidia.com/gpu", "devices": [{"name": "all"}]}
    file = tmp_path / "nvidia.json"
    file.write_text(json.dumps(spec))
    monkeypatch.setattr(waiting, "CDI_FOLDERS", (tmp_path,))
    told: list[str] = []

    async def report(connect: object, node: str, error: AgentError) -> None:
        told.append(error.condition)
        file.write_text(json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": GPU}]}))

    monkeypatch.setattr("nodeagent.failure.report_failure", report)
    settings = replace(SETTINGS, device_list_strategy=DeviceListStrategy.CDI_CRI)
    async with asyncio.timeout(DEADLINE):
        gpus = await waiting.gpus_in_time(settings, connect, NvmlGpus.start)
    assert told == ["CdiUnresolvable"]
    gpus.close()

    async def closed() -> bool:
        return not opened()

    await eventually(closed, "NVML is closed, each time")


async def connect() -> ClosableKube:
    raise AssertionError


async def test_driver_that_goes_comes_back_in_the_same_process(driver: FakeDriver) -> None:
    async with followed() as (gpus, _):
        for function in ("nvmlDeviceGetCount_v2", "nvmlInitWithFlags"):
            driver.fail(function, DRIVER_NOT_LOADED)
        gone = await until_reason(gpus, "DriverNotLoaded")
        assert "the kernel module nvidia is not loaded" in gone.detail
        registered = driver.registrations(GPU)
        driver.recover()
        await until_reason(gpus, None)

        async def again() -> bool:
            return driver.registrations(GPU) > registered

        await eventually(again, "its Xids are waited for again")


async def test_driver_of_another_version_needs_another_process(driver: FakeDriver) -> None:
    async with followed() as (_, task):
        for function in ("nvmlDeviceGetCount_v2", "nvmlInitWithFlags"):
            driver.fail(function, VERSION_MISMATCH)
        with pytest.raises(BaseExceptionGroup) as ended:
            await asyncio.wait_for(task, DEADLINE)
    assert ended.group_contains(DriverReplaced)


async def test_agent_lets_go_of_the_driver_on_request_and_takes_it_up_again(
    tmp_path: Path, opened: Callable[[], bool]
) -> None:
    closing = Closing(tmp_path / "closed")
    async with followed(closing.check) as (gpus, _):
        closing.ask(600)
        left = await until_reason(gpus, "DriverClosed")
        assert "left alone on request until" in left.detail
        assert "close-driver --end" in left.detail

        async def closed() -> bool:
            return not opened()

        await eventually(closed, "NVML is closed")
        with pytest.raises(DriverClosed):
            await gpus.processes(GPU)
        closing.end()
        await until_reason(gpus, None)


def test_request_passes_by_itself(tmp_path: Path) -> None:
    closing = Closing(tmp_path / "closed")
    closing.check()
    closing.ask(-1)
    closing.check()
    closing.ask(60)
    with pytest.raises(DriverClosed, match=r"until .* UTC"):
        closing.check()
    closing.file.write_text("garbage")
    closing.check()


async def test_supervisor_lets_go_too(tmp_path: Path, opened: Callable[[], bool]) -> None:
    closing = Closing(tmp_path / "closed")
    async with open_compute_modes(closing.check) as modes:
        assert await modes.is_exclusive(GPU) is False
        closing.ask(600)
        with pytest.raises(DriverClosed):
            await modes.is_exclusive(GPU)

        async def closed() -> bool:
            return not opened()

        await eventually(closed, "NVML is closed")
        closing.end()
        assert await modes.is_exclusive(GPU) is False


async def test_memory_that_cannot_be_told_is_named(driver: FakeDriver) -> None:
    """As on GB10, whose memory is the machine's."""
    driver.fail("nvmlDeviceGetMemoryInfo_v2", NOT_SUPPORTED)
    with pytest.raises(NoGpus, match=r"GPU 0: it does not tell how much memory it has.*GB10"):
        await NvmlGpus.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")
def test_processes_that_have_a_gpu_open_are_named(tmp_path: Path) -> None:
    null = os.stat("/dev/null").st_rdev
    os.mknod(tmp_path / "nvidia0", 0o20600, null)
    os.mknod(tmp_path / "nvidiactl", 0o20600, os.stat("/dev/zero").st_rdev)
    names: Sequence[str]
    with open("/dev/null"):
        names = [processes_with(tmp_path)[os.getpid()]]
    assert names[0]
