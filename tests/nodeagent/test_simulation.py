"""The file of simulated GPUs, and what is said of one that cannot be used."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.errors import BadSimulation
from nodeagent.hardware import Gpu
from nodeagent.simulation import SimulatedGpus, merge_reload, parse_simulation, read_simulation
from tests.nodeagent.conftest import AMPERE
from tests.waiting import DEADLINE

EXAMPLE = """
gpus:
  - {uuid: GPU-1, product: NVIDIA A100-SXM4-80GB, memoryMiB: 81920, reservedMiB: 626,
     computeCapability: "8.0", numaNode: 1}
  - {uuid: GPU-2, memoryMiB: 24576, healthy: false}
"""


def test_example_is_read(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(EXAMPLE)
    first, second = read_simulation(file)
    assert first == Gpu(
        GpuUuid("GPU-1"), 0, "NVIDIA A100-SXM4-80GB", 81920, 626, AMPERE, numa_node=1
    )
    assert (second.index, second.reason, second.numa_node) == (1, "Unhealthy", None)


@pytest.mark.parametrize(
    ("gpus", "field"),
    [
        (None, "gpus: is not a list"),
        ([], "gpus: is not a list"),
        ([3], "gpus[0]: is not a GPU"),
        ([{"memoryMiB": 1}], "gpus[0].uuid: None"),
        ([{"uuid": "a/b", "memoryMiB": 1}], "gpus[0].uuid: 'a/b'"),
        ([{"uuid": "x" * 41, "memoryMiB": 1}], "gpus[0].uuid:"),
        ([{"uuid": "..", "memoryMiB": 1}], "gpus[0].uuid: '..' is no name"),
        ([{"uuid": "a", "memoryMiB": 2**31}], "gpus[0].memoryMiB: 2147483648"),
        ([{"uuid": "a"}], "gpus[0].memoryMiB: 0"),
        ([{"uuid": "a", "memoryMiB": "80G"}], "gpus[0].memoryMiB: '80G'"),
        ([{"uuid": "a", "memoryMiB": True}], "gpus[0].memoryMiB: True"),
        ([{"uuid": "a", "memoryMiB": 9, "reservedMiB": -1}], "gpus[0].reservedMiB: -1"),
        ([{"uuid": "a", "memoryMiB": 9, "reservedMiB": 9}], "gpus[0].reservedMiB: 9 leaves"),
        ([{"uuid": "a", "memoryMiB": 9, "healthy": "no"}], "gpus[0].healthy: 'no'"),
        ([{"uuid": "a", "memoryMiB": 9, "computeCapability": "new"}], "gpus[0].computeCapability:"),
        ([{"uuid": "a", "memoryMiB": 9, "numaNode": "0"}], "gpus[0].numaNode: '0'"),
        ([{"uuid": "a", "memoryMiB": 9, "memory": 1}], "gpus[0].memory: is no field"),
        ([{"uuid": "a", "memoryMiB": 9}] * 2, "gpus[1].uuid: a is listed twice"),
    ],
)
def test_unusable_entry_is_named(gpus: object, field: str) -> None:
    with pytest.raises(BadSimulation) as caught:
        parse_simulation({"gpus": gpus})
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("gpus: [}", "line 1: is no YAML"),
        ("gpus: 3", "gpus: is not"),
        ("\xff\x00", "is no YAML"),
        ("gpus: [{uuid: 2001-99-99}]", "is no YAML"),
        ("[" * 5000, "is no YAML"),
    ],
)
def test_unusable_file_is_named(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(BadSimulation, match=what) as caught:
        read_simulation(file)
    assert str(file) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSimulation, match=r"gone\.yaml: No such file"):
        SimulatedGpus(tmp_path / "gone.yaml")


def some(uuid: str, index: int) -> Gpu:
    return Gpu(GpuUuid(uuid), index, "x", 1000, 0, AMPERE)


def test_vanished_gpu_is_lost_and_no_other_changes_its_index() -> None:
    known = (some("a", 0), some("b", 1))
    merged = merge_reload(known, (some("b", 0), some("c", 1)))
    assert merged == (replace(some("a", 0), reason="Lost"), some("b", 1), some("c", 2))


def test_lost_gpu_that_comes_back_is_healthy() -> None:
    known = (replace(some("a", 0), reason="Lost"),)
    assert merge_reload(known, (some("a", 0),)) == (some("a", 0),)


async def test_changed_file_is_read_again_and_a_bad_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(EXAMPLE)
    gpus = SimulatedGpus(file)
    changes: asyncio.Queue[Sequence[Gpu]] = asyncio.Queue()
    following = asyncio.create_task(gpus.follow(changes.put_nowait))
    file.write_text("gpus: [}")
    file.write_text(EXAMPLE.replace("healthy: false", "healthy: true"))
    async with asyncio.timeout(DEADLINE):
        first, second = await changes.get()
    following.cancel()
    assert first.healthy
    assert second.healthy
    assert gpus.read() == (first, second)
