"""What NVML says, through real pynvml: records, and errors that are ours and say what to do."""

from pathlib import Path

import pynvml  # type: ignore[import-untyped]  # it has no types
import pytest

from mpslice.gpus import GpuUuid
from nodeagent.errors import (
    DriverNotLoaded,
    DriverTooOld,
    GpuLost,
    NvmlError,
    NvmlMissing,
    NvmlNotPermitted,
)
from nodeagent.gpus.nvml import ComputeMode, Nvml
from nodeagent.hardware import VOLTA, ComputeCapability, Gpu
from tests.nodeagent.nvml.driver import GPU_IS_LOST, NO_PERMISSION, UNKNOWN, FakeDriver, build
from tests.nodeagent.nvml.plugin import load

ONE, TWO = GpuUuid("GPU-1"), GpuUuid("GPU-2")


def test_gpus_are_read_with_all_that_is_known_of_them(driver: FakeDriver, tmp_path: Path) -> None:
    folder = tmp_path / "0000:3b:00.0"
    folder.mkdir()
    (folder / "numa_node").write_text("1\n")
    driver.gpu(
        ONE,
        name="NVIDIA A100-SXM4-80GB",
        memory=81920,
        reserved=626,
        cc="8.0",
        minor=3,
        mig=0,
        pci="00000000:3B:00.0",
    )
    driver.gpu(TWO, name="Tesla P4", memory=7680, cc="6.1", pci="00000000:AF:00.0")
    with Nvml(tmp_path) as nvml:
        assert nvml.count() == 2
        one, two = nvml.gpu(0), nvml.gpu(1)
    assert one == Gpu(ONE, 0, "NVIDIA A100-SXM4-80GB", 81920, 626, ComputeCapability(8, 0), 3, 1)
    assert two == Gpu(TWO, 1, "Tesla P4", 7680, 0, ComputeCapability(6, 1))
    assert one.compute_capability > VOLTA > two.compute_capability


def test_mig_mode_is_seen(driver: FakeDriver) -> None:
    driver.gpu(ONE, mig=1)
    driver.gpu(TWO, mig=0)
    with Nvml() as nvml:
        assert [nvml.gpu(index).mig for index in (0, 1)] == [True, False]


def test_gpu_that_the_kernel_puts_on_no_numa_node_has_none(
    driver: FakeDriver, tmp_path: Path
) -> None:
    folder = tmp_path / "0000:01:00.0"
    folder.mkdir()
    (folder / "numa_node").write_text("-1\n")
    driver.gpu(ONE)
    with Nvml(tmp_path) as nvml:
        assert nvml.gpu(0).numa_node is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [(GPU_IS_LOST, GpuLost), (NO_PERMISSION, NvmlNotPermitted), (UNKNOWN, NvmlError)],
)
def test_gpu_that_does_not_answer_does_not_hide_the_others(
    driver: FakeDriver, code: int, kind: type[NvmlError]
) -> None:
    driver.gpu(ONE)
    driver.gpu(TWO)
    driver.fail("nvmlDeviceGetMemoryInfo_v2", code, ONE)
    with Nvml() as nvml:
        assert (nvml.count(), nvml.gpu(1).uuid) == (2, TWO)
        with pytest.raises(NvmlError) as raised:
            nvml.gpu(0)
    assert raised.type is kind


def test_compute_mode_is_read_and_set(driver: FakeDriver) -> None:
    driver.gpu(ONE, mode=2)
    with Nvml() as nvml:
        assert nvml.compute_mode(ONE) is ComputeMode.PROHIBITED
        nvml.set_compute_mode(ONE, ComputeMode.EXCLUSIVE_PROCESS)
        assert nvml.compute_mode(ONE) is ComputeMode.EXCLUSIVE_PROCESS
    assert driver.compute_mode(ONE) == ComputeMode.EXCLUSIVE_PROCESS


def test_missing_permission_is_said(driver: FakeDriver) -> None:
    driver.gpu(ONE)
    driver.fail("nvmlDeviceSetComputeMode", NO_PERMISSION)
    with Nvml() as nvml:
        with pytest.raises(NvmlNotPermitted, match=r"nvmlDeviceSetComputeMode: .* as root"):
            nvml.set_compute_mode(ONE, ComputeMode.DEFAULT)
        assert nvml.compute_mode(ONE) is ComputeMode.DEFAULT


@pytest.mark.parametrize("uuid", ["GPU-1", "GPU-none"])
def test_lost_and_unknown_gpu_are_lost(driver: FakeDriver, uuid: str) -> None:
    driver.gpu(ONE)
    driver.lose(ONE)
    with Nvml() as nvml, pytest.raises(GpuLost):
        nvml.compute_mode(GpuUuid(uuid))


def test_driver_that_is_not_loaded_is_said(driver: FakeDriver) -> None:
    driver.add("driver absent")
    with pytest.raises(DriverNotLoaded, match="kernel module nvidia is not loaded"):
        Nvml()


def test_absent_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError("no such file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", absent)
    with pytest.raises(NvmlMissing, match=r"libnvidia-ml\.so\.1 cannot be loaded"):
        Nvml()


def test_old_driver_is_said(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory v2 nobody knows what the driver keeps for itself, and slices would overlap."""
    load(build(tmp_path, without=["nvmlDeviceGetMemoryInfo_v2"]), monkeypatch)
    driver.gpu(ONE)
    with Nvml() as nvml, pytest.raises(DriverTooOld, match="install driver 510"):
        nvml.gpu(0)


def test_driver_from_before_mig_has_none(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(build(tmp_path, without=["nvmlDeviceGetMigMode"]), monkeypatch)
    driver.gpu(ONE, mig=1)
    with Nvml() as nvml:
        assert not nvml.gpu(0).mig


def test_memory_is_told_by_process_and_none_is_counted_twice(driver: FakeDriver) -> None:
    driver.gpu(ONE)
    driver.gpu(TWO)
    driver.process(ONE, 11, 30, "compute")  # the MPS server itself
    driver.process(ONE, 12, 1000, "mps")
    driver.process(ONE, 12, 1000, "compute")
    driver.process(TWO, 13, 5, "mps")
    with Nvml() as nvml:
        assert nvml.memory_by_process(ONE) == {11: 30, 12: 1000}
        assert nvml.memory_by_process(TWO) == {13: 5}


def test_driver_that_knows_no_mps_processes_tells_of_the_others(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = ["nvmlDeviceGetMPSComputeRunningProcesses_v3"]
    load(build(tmp_path, without=lacks), monkeypatch)
    driver.gpu(ONE)
    driver.process(ONE, 12, 1000, "compute")
    with Nvml() as nvml:
        assert nvml.memory_by_process(ONE) == {12: 1000}


def test_no_error_of_pynvml_leaves(driver: FakeDriver) -> None:
    """They break when they are compared or hashed, as logging and test tools do."""
    driver.gpu(ONE)
    driver.fail("nvmlDeviceGetComputeMode", UNKNOWN)
    with Nvml() as nvml, pytest.raises(NvmlError, match="Unknown Error") as caught:
        nvml.compute_mode(ONE)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
