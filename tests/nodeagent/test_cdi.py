"""A slice as a CDI device: the same as Allocate answers, there before the slice, gone after it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpslice.gpus import DeviceId
from nodeagent.cdi import CdiSpecs, device_name, specification
from nodeagent.edits import ContainerEdits, DeviceNode, Mount
from nodeagent.errors import CdiUnwritable
from tests.nodeagent.conftest import Machine, device, gpu, resource

SLICE = DeviceId.parse(device(1, 10, 0))
EDITS = ContainerEdits(
    {"B": "2", "A": "1=x"},
    (Mount(Path("/run/mpslice/x/pipe"), "/run/mpslice/pipe"),),
    (DeviceNode(Path("/dev/nvidia0"), "/dev/nvidia0"),),
)


def specs(machine: Machine) -> dict[str, Any]:
    """The container edits of each device that a runtime would find."""
    found: dict[str, Any] = {}
    for path in machine.settings.cdi_dir.glob("*.json"):
        document = json.loads(path.read_text())
        assert document["kind"] == "mpslice.io/slice"
        found |= {entry["name"]: entry["containerEdits"] for entry in document["devices"]}
    return found


def test_specification_is_the_answer_of_allocate() -> None:
    assert specification({SLICE: EDITS}) == {
        "cdiVersion": "0.5.0",
        "kind": "mpslice.io/slice",
        "devices": [
            {
                "name": str(SLICE),
                "containerEdits": {
                    "env": ["A=1=x", "B=2"],
                    "mounts": [
                        {
                            "hostPath": "/run/mpslice/x/pipe",
                            "containerPath": "/run/mpslice/pipe",
                            "options": ["rbind", "rprivate", "rw"],
                        }
                    ],
                    "deviceNodes": [
                        {
                            "path": "/dev/nvidia0",
                            "hostPath": "/dev/nvidia0",
                            "permissions": "rw",
                        }
                    ],
                },
            }
        ],
    }


def test_name_is_fully_qualified() -> None:
    assert device_name(SLICE) == f"mpslice.io/slice={SLICE}"


def test_files_are_whole_and_those_of_other_programs_stay(tmp_path: Path) -> None:
    directory = tmp_path / "cdi"
    cdi = CdiSpecs(directory)
    cdi.put({SLICE: EDITS})
    other = directory / "nvidia.yaml"
    other.write_text("x")
    left = directory / f"mpslice.io-slice_{gpu(2)}.json"
    draft = directory / f"mpslice.io-slice_{gpu(2)}.json.draft"
    for path in (left, draft):
        path.write_text("{")
    CdiSpecs(directory).clean([SLICE])
    assert sorted(path.name for path in directory.iterdir()) == [
        f"mpslice.io-slice_{gpu(1)}.json",
        "nvidia.yaml",
    ]
    cdi.put({}, [SLICE])
    assert [path.name for path in directory.iterdir()] == ["nvidia.yaml"]


def test_file_that_somebody_took_away_is_written_again(tmp_path: Path) -> None:
    cdi = CdiSpecs(tmp_path)
    cdi.put({SLICE: EDITS})
    (path,) = tmp_path.iterdir()
    before = path.read_text()
    path.unlink()
    cdi.put({SLICE: EDITS})
    assert path.read_text() == before
    changed = replace(EDITS, environment={"A": "3"})
    cdi.put({SLICE: changed})
    assert json.loads(path.read_text())["devices"][0]["containerEdits"]["env"] == ["A=3"]


def test_slices_of_a_gpu_share_a_file_and_come_and_go_one_by_one(tmp_path: Path) -> None:
    other, elsewhere = (DeviceId.parse(device(*parts)) for parts in ((1, 20, 3), (2, 10, 0)))
    cdi = CdiSpecs(tmp_path)
    cdi.put({SLICE: EDITS, elsewhere: EDITS})
    cdi.put({other: EDITS}, [elsewhere])
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == specification({SLICE: EDITS, other: EDITS})
    cdi.put({}, [SLICE])
    assert json.loads(path.read_text()) == specification({other: EDITS})
    assert (cdi.names(other), cdi.names(SLICE), cdi.names(elsewhere)) == (True, False, False)


def test_device_is_named_by_one_file_after_a_version_that_had_one_for_each(tmp_path: Path) -> None:
    """A runtime gives nobody a device that two files name."""
    earlier = [device(1, 10, 0), device(1, 10, 1)]
    for name in (*earlier, device(2, 10, 0)):
        (tmp_path / f"mpslice.io-slice_{name}.json").write_text("{}")
    CdiSpecs(tmp_path).put({SLICE: EDITS})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"mpslice.io-slice_{gpu(1)}.json",
        f"mpslice.io-slice_{device(2, 10, 0)}.json",
    ]


def test_directory_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cdi = CdiSpecs(tmp_path / "file")
    with pytest.raises(CdiUnwritable, match=r"file/.* cannot be written .*--cdi=false"):
        cdi.put({SLICE: EDITS})
    assert not cdi.names(SLICE)


async def test_slice_is_specified_before_it_is_offered_and_until_it_is_withdrawn(
    machine: Machine,
) -> None:
    early: list[str] = []

    def check(name: str) -> None:
        early.extend(set(machine.kubelet.lists[-1][1]) - specs(machine).keys())

    machine.kubelet.on_list = check
    async with machine.agent():
        await machine.applied({"10gb": 2, "20gb": 1})
        assert specs(machine).keys() == machine.slices().keys()
        await machine.applied({"40gb": 1})
        await machine.until(
            lambda: specs(machine).keys() == {device(1, 40, 0)}, "the others are taken away"
        )
    assert early == []


async def test_allocate_names_the_device_beside_the_same_environment(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = machine.bind(10)
        answer = await machine.admit(key, 10)
    assert [entry.name for entry in answer.cdi_devices] == [f"mpslice.io/slice={SLICE}"]
    edits = specs(machine)[str(SLICE)]
    assert edits["env"] == sorted(f"{name}={value}" for name, value in answer.envs.items())
    assert [(m["hostPath"], m["containerPath"]) for m in edits["mounts"]] == [
        (mount.host_path, mount.container_path) for mount in answer.mounts
    ]


@pytest.mark.parametrize("by_checkpoint", [True, False])
async def test_agent_that_starts_specifies_what_stands_and_takes_the_rest_away(
    machine: Machine, *, by_checkpoint: bool
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1, "20gb": 1})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
    if not by_checkpoint:
        (machine.kubelet.directory / "kubelet_internal_checkpoint").unlink()
    left = machine.settings.cdi_dir / f"mpslice.io-slice_{gpu(2)}.json"
    left.write_text("{}")
    (machine.settings.cdi_dir / f"mpslice.io-slice_{gpu(1)}.json").unlink()
    early: list[str] = []
    machine.kubelet.on_list = lambda name: early.extend(
        set(machine.kubelet.lists[-1][1]) - specs(machine).keys()
    )
    async with machine.agent():
        await machine.until(lambda: not left.exists(), "taken away")
        assert specs(machine).keys() == {str(SLICE), device(1, 20, 0)}
        await machine.until(lambda: machine.kubelet.healthy(resource(20)), "served")
    assert early == []


async def test_slice_that_stands_again_with_its_gpu_is_specified_again(machine: Machine) -> None:
    """Its container's next start names it."""
    async with machine.agent():
        await machine.applied({}, {"10gb": 1})
        await machine.run_pod(10)
        await machine.until(machine.holders, "the holder")
    machine.write_gpus({})
    async with machine.agent():
        await machine.until(lambda: machine.slices() == {}, "nothing of it")
        assert specs(machine) == {}
        machine.write_gpus({}, {})
        await machine.until(lambda: specs(machine).keys() == {device(2, 10, 0)}, "specified")


async def test_container_that_starts_again_finds_its_specification(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.run_pod(10)
        os.unlink(machine.settings.cdi_dir / f"mpslice.io-slice_{gpu(1)}.json")
        await machine.kubelet.start_container(resource(10), str(SLICE))
        assert specs(machine).keys() == {str(SLICE)}


async def test_without_cdi_the_environment_is_all_there_is(machine: Machine) -> None:
    machine.settings = replace(machine.settings, cdi=False)
    async with machine.agent():
        await machine.applied({"10gb": 1})
        answer = await machine.admit(machine.bind(10), 10)
    assert not machine.settings.cdi_dir.exists()
    assert list(answer.cdi_devices) == []
    assert answer.envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9533M"


async def test_slices_that_cannot_be_specified_are_not_carved_and_the_others_are_served(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        for path in machine.settings.cdi_dir.iterdir():
            path.unlink()
        machine.settings.cdi_dir.rmdir()
        machine.settings.cdi_dir.write_text("")
        machine.lay_out({"10gb": 2})
        await machine.until(
            lambda: machine.condition("Ready").get("reason") == "CdiUnwritable", "told"
        )
        assert machine.kubelet.healthy(resource(10)) == {str(SLICE)}
        machine.settings.cdi_dir.unlink()
        await machine.acknowledged(2)
        assert machine.condition("Ready")["status"] == "True"
