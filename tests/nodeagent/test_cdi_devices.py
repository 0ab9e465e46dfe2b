"""CDI specifications of the host that do not name the node's GPUs."""

import json
from pathlib import Path

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.driver.cdi import CdiUnresolvable, check_devices

ONE, TWO = GpuUuid("GPU-1"), GpuUuid("GPU-2")


def specify(folder: Path, name: str, kind: str, *devices: str) -> None:
    spec = {"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": d} for d in devices]}
    (folder / name).write_text(json.dumps(spec))


def test_gpus_that_are_named_are_fine(tmp_path: Path) -> None:
    specify(tmp_path, "a.json", "nvidia.com/gpu", "0", "GPU-1")
    specify(tmp_path, "b.json", "nvidia.com/gpu", "1", "GPU-2")
    (tmp_path / "c.yaml").write_text("{ no yaml")
    check_devices([tmp_path, tmp_path / "none"], [ONE, TWO])


def test_specification_in_yaml_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: nvidia.com/gpu\ndevices:\n- name: GPU-1\n")
    check_devices([tmp_path], [ONE])


def test_kind_for_management_alone_is_named(tmp_path: Path) -> None:
    specify(tmp_path, "m.json", "management.nvidia.com/gpu", "all")
    with pytest.raises(CdiUnresolvable) as refused:
        check_devices([tmp_path], [ONE])
    assert str(refused.value) == (
        "no CDI specification names nvidia.com/gpu=GPU-1; there is only management.nvidia.com/gpu, "
        "which is for programs that manage GPUs; run nvidia-ctk cdi generate with "
        "--device-name-strategy=uuid on the node, or set the chart's nodeAgent.deviceListStrategy "
        "to envvar"
    )


def test_gpu_that_is_not_named_is_told(tmp_path: Path) -> None:
    specify(tmp_path, "a.json", "nvidia.com/gpu", "0", "GPU-1")
    with pytest.raises(CdiUnresolvable, match=r"names nvidia\.com/gpu=GPU-2; run"):
        check_devices([tmp_path], [ONE, TWO])


def test_nothing_is_said_where_nothing_is_seen(tmp_path: Path) -> None:
    check_devices([tmp_path / "none"], [ONE])
