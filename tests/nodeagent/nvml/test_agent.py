"""The agent on the driver's GPUs: what the node, the kubelet and the Events say of their health."""

import asyncio
from dataclasses import replace

import pytest

from nodeagent import main
from nodeagent.gpus import health
from nodeagent.gpus import real as gpus_module
from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.settings import Settings
from nodeagent.simulation import SimulatedGpus, SimulatedMps
from tests.nodeagent.conftest import Machine, device, gpu, resource
from tests.nodeagent.fake_kube import FakeKube
from tests.nodeagent.nvml.driver import FakeDriver


@pytest.fixture
def on_nvml(machine: Machine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with two A100s."""
    monkeypatch.setattr(gpus_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(gpus_module, "XID_WAIT", 0.05)

    async def find_hardware() -> tuple[Gpus, MpsControl]:
        return await NvmlGpus.start(), SimulatedMps(SimulatedGpus(machine.file))

    machine.find_hardware = find_hardware  # type: ignore[method-assign]
    for number in (1, 2):
        driver.gpu(gpu(number), memory=81920, reserved=626, recovery=0)
    return machine


async def test_layout_is_applied_with_the_drivers_memory(on_nvml: Machine) -> None:
    async with on_nvml.agent():
        status = await on_nvml.applied({"10gb": 1}, {"40gb": 1})
    assert [entry["capacityGB"] for entry in status["gpus"]] == [85, 85]
    limits = [entry["slices"][0]["limitMiB"] for entry in status["gpus"]]
    assert limits == [9533, 38135]


async def test_xid_is_told_to_all_and_so_is_its_end(
    on_nvml: Machine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_nvml.agent():
        await on_nvml.applied({"10gb": 1}, {"10gb": 1})
        await on_nvml.until(lambda: driver.registrations(gpu(2)), "registered for Xids")
        driver.xid(gpu(2), 48)
        await on_nvml.until(lambda: on_nvml.reasons() == [None, "XidError"], "in the NodeLayout")
        await on_nvml.until(lambda: on_nvml.allocatable() == {resource(10): "1"}, "in the node")
        assert on_nvml.kubelet.devices[resource(10)] == {
            device(1, 10, 0): True,
            device(2, 10, 0): False,
        }
        monkeypatch.setattr(health, "CALM_SECONDS", 0.1)
        await on_nvml.until(lambda: on_nvml.reasons() == [None, None], "well again")
        await on_nvml.until(lambda: on_nvml.allocatable() == {resource(10): "2"}, "offered again")
        await on_nvml.until(lambda: on_nvml.events("GPUHealthy"), "the Event")
    (told,) = on_nvml.events("GPUUnhealthy")
    assert told == f"GPU 1 ({gpu(2)}) is unhealthy: XidError: Xid 48"


async def test_gpu_that_is_gone_at_boot_is_dropped_and_a_new_one_taken_in(
    on_nvml: Machine, driver: FakeDriver
) -> None:
    async with on_nvml.agent():
        await on_nvml.applied({"10gb": 1}, {"10gb": 1})
    driver.drop(f"gpu {gpu(2)}")
    driver.gpu(gpu(3), memory=24576)
    on_nvml.kubelet.devices.clear()
    on_nvml.kubelet.checkpoint()
    async with on_nvml.agent():
        await on_nvml.until(lambda: on_nvml.events("GPUGone"), "the Event")
        await on_nvml.applied({"10gb": 1}, {}, {"20gb": 1})
        assert set(on_nvml.slices()) == {device(1, 10, 0), device(3, 20, 0)}
    assert gpu(2) in on_nvml.events("GPUGone")[0]


async def test_driver_that_hangs_stops_neither_the_plugin_nor_the_reports(
    on_nvml: Machine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus_module, "_CALL", 0.2)
    async with on_nvml.agent() as agent:
        await on_nvml.applied({"10gb": 1})
        driver.hang("nvmlDeviceGetMemoryInfo_v2")
        await on_nvml.until(lambda: on_nvml.reasons() == ["DriverHangs"] * 2, "told")
        await on_nvml.until(lambda: on_nvml.allocatable() == {}, "nothing is bound there")
        driver.recover()
        await on_nvml.until(lambda: on_nvml.allocatable() == {resource(10): "1"}, "back")
        assert not agent.done()


async def test_driver_that_is_not_loaded_is_said_in_the_nodelayout(
    on_nvml: Machine, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(_settings: Settings) -> FakeKube:
        return on_nvml.kube

    monkeypatch.setattr(main, "_connect", connect)
    on_nvml.lay_out({"10gb": 1})
    driver.add("driver absent")
    settings = replace(on_nvml.settings, simulated_gpus=None)
    waiting = asyncio.create_task(main.run(settings))
    try:
        await on_nvml.until(lambda: on_nvml.condition("Ready"), "the condition")
        ready = on_nvml.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "DriverNotLoaded")
        assert "the kernel module nvidia is not loaded" in ready["message"]
        assert not waiting.done()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
