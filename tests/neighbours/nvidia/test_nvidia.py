"""NVIDIA's own device plugin and feature discovery, with the tests' library in the driver's place.

The project releases them in an image alone, and its Go module has no version that a proxy serves,
so MPSLICE_NVIDIA_PROGRAMS names a folder that has both, copied out of that image.
"""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.plan.hardware import Assumptions, hardware_of
from hack.cluster.processes import ProcessSpec, Program
from mpslice.kube.api import NODES, PatchType
from nodeagent.gpus.refusals import FOREIGN_PLUGIN
from planner.state.parse import parse_node
from tests.cluster.plugin import NEIGHBOURS_NAME, is_required
from tests.nodeagent.conftest import A100, device, gpu
from tests.nodeagent.nvml.driver import FakeDriver
from tests.nodeagent.real.cluster import Cluster, plain_container
from tests.waiting import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("machine_without_node")

Json = dict[str, Any]
VARIABLE = "MPSLICE_NVIDIA_PROGRAMS"
WHOLE, SHARED = "nvidia.com/gpu", "nvidia.com/gpu.shared"
PLAIN: Json = {"version": "v1"}
TIME_SLICED: Json = {
    "version": "v1",
    "sharing": {
        "timeSlicing": {
            "renameByDefault": True,
            "resources": [{"name": WHOLE, "replicas": 4}],
        }
    },
}


@pytest.fixture(scope="module")
def nvidia_programs() -> Path:
    folder = os.environ.get(VARIABLE, "")
    if not is_required(NEIGHBOURS_NAME) or not folder:
        pytest.skip(f"NVIDIA's programs are tested where {VARIABLE} names their folder")
    return Path(folder)


@pytest.fixture
def two_gpus(driver: FakeDriver) -> FakeDriver:
    """The driver, with the two GPUs that the agent of these tests has."""
    for number in (1, 2):
        bus = f"00000000:0{number}:00.0"
        driver.gpu(
            gpu(number), name=A100["product"], memory=A100["memoryMiB"], minor=number - 1, pci=bus
        )
    return driver


@asynccontextmanager
async def offering(
    cluster: Cluster, programs: Path, driver: FakeDriver, config: Json, offered: dict[str, int]
) -> AsyncIterator[Program]:
    """NVIDIA's plugin at work; returns once the node offers so many of each resource."""
    file = cluster.folder / "nvidia.yaml"
    file.write_text(yaml.safe_dump(config))
    command = (
        str(programs / "nvidia-device-plugin"),
        f"--config-file={file}",
        f"--kubelet-socket={cluster.node.device_plugin_dir / 'kubelet.sock'}",
        "--device-discovery-strategy=nvml",
    )
    spec = ProcessSpec("nvidia-device-plugin", command, environment=driver.environment)
    program = Program(cluster.plane.cluster, spec)
    program.start()
    try:
        await eventually(partial(offers, cluster, offered), f"{offered}: {program.last_lines(20)}")
        yield program
    finally:
        program.stop()


async def offers(cluster: Cluster, wanted: dict[str, int]) -> bool:
    node = cluster.plane.api.get(f"/api/v1/nodes/{cluster.node.name}")
    allocatable = node["status"]["allocatable"]
    return all(int(allocatable.get(name, 0)) == count for name, count in wanted.items())


async def refused(cluster: Cluster, wanted: list[str | None]) -> bool:
    """Whether these are the reasons for which the agent leaves the GPUs alone."""
    gpus = (await cluster.status()).get("gpus") or ()
    return [entry.get("reason") for entry in gpus] == wanted


async def carved(cluster: Cluster, wanted: set[str]) -> bool:
    return (await cluster.slices()).keys() == wanted


@pytest.mark.parametrize(
    ("config", "resource", "count"),
    [(PLAIN, WHOLE, 2), (TIME_SLICED, SHARED, 8)],
    ids=["whole", "time-sliced"],
)
async def test_gpus_that_nvidias_plugin_offers_are_left_alone_until_it_and_its_pods_are_gone(
    cluster: Cluster,
    nvidia_programs: Path,
    two_gpus: FakeDriver,
    config: Json,
    resource: str,
    count: int,
) -> None:
    async with offering(cluster, nvidia_programs, two_gpus, config, {resource: count}):
        container = {**plain_container(), "resources": {"limits": {resource: "1"}}}
        await cluster.create_plain("theirs", container)
        await cluster.ready("theirs")
        printed = cluster.plane.kubectl("logs", "theirs").stdout
        held = printed.partition("NVIDIA_VISIBLE_DEVICES=")[2].splitlines()[0]
        assert held in {gpu(1), gpu(2)}
        await cluster.apply({"10gb": 1}, {"10gb": 1})
        both: list[str | None] = [FOREIGN_PLUGIN, FOREIGN_PLUGIN]
        await eventually(lambda: refused(cluster, both), "both GPUs are left alone")
        assert await cluster.slices() == {}
        assert await offers(cluster, {resource: count}), "as before"
    await eventually(lambda: offers(cluster, {resource: 0}), "the node offers none")
    left = [FOREIGN_PLUGIN if held == gpu(number) else None for number in (1, 2)]
    await eventually(lambda: refused(cluster, left), "the GPU of its pod alone is left")
    free = {device(number, 10, 0) for number in (1, 2) if held != gpu(number)}
    await eventually(lambda: carved(cluster, free), "the other GPU has its slice")
    await cluster.delete("theirs")
    ours = {device(1, 10, 0), device(2, 10, 0)}
    await eventually(lambda: carved(cluster, ours), "both have their slices")


async def test_plugin_that_starts_on_our_node_gets_no_gpu_that_a_pod_of_ours_uses(
    cluster: Cluster,
    nvidia_programs: Path,
    two_gpus: FakeDriver,
) -> None:
    """A mistake that our labels and docs are there to prevent; the node says what it is."""
    await cluster.apply({"10gb": 1}, {"10gb": 1})
    await cluster.run("ours", 10)
    async with offering(cluster, nvidia_programs, two_gpus, PLAIN, {WHOLE: 2}):
        both: list[str | None] = [FOREIGN_PLUGIN, FOREIGN_PLUGIN]
        await eventually(lambda: refused(cluster, both), "both GPUs are left alone")
        used = {id_ for id_, pod in (await cluster.slices()).items() if pod}
        await eventually(lambda: carved(cluster, used), "free slices go, the used one stays")
        assert len(used) == 1
    ours = {device(1, 10, 0), device(2, 10, 0)}
    await eventually(lambda: carved(cluster, ours), "the mistake is mended")
    now = await cluster.ready("ours")
    assert now["status"]["containerStatuses"][0]["restartCount"] == 0


def discovered(programs: Path, driver: FakeDriver, folder: Path) -> dict[str, str]:
    """The labels that NVIDIA's feature discovery writes for these GPUs."""
    output, machine = folder / "labels", folder / "machine"
    machine.write_text("Test")
    command = [
        str(programs / "gpu-feature-discovery"),
        "--oneshot",
        "--use-node-feature-api=false",
        "--device-discovery-strategy=nvml",
        f"--output-file={output}",
        f"--machine-type-file={machine}",
    ]
    environment = {**os.environ, **driver.environment, "NODE_NAME": "node"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in output.read_text().split())


def test_plan_reads_the_gpus_from_the_labels_that_feature_discovery_writes(
    nvidia_programs: Path, two_gpus: FakeDriver, tmp_path: Path
) -> None:
    labels = discovered(nvidia_programs, two_gpus, tmp_path)
    obj = {"metadata": {"name": "node", "labels": labels}, "status": {}}
    hardware = hardware_of(parse_node(obj), obj, (), Assumptions())
    assert (hardware.reason, hardware.message) == ("", "")
    assert hardware.layout is not None
    assert hardware.layout.status is not None
    seen = [(each.memory_mib, each.capacity_gb) for each in hardware.layout.status.gpus]
    assert seen == [(A100["memoryMiB"], 85)] * 2
    assert {each.product for each in hardware.layout.status.gpus} == {"NVIDIA-A100-SXM4-80GB"}


async def test_labels_of_feature_discovery_change_nothing_on_our_node(
    cluster: Cluster,
    nvidia_programs: Path,
    two_gpus: FakeDriver,
    tmp_path: Path,
) -> None:
    await cluster.apply({"10gb": 1}, {})
    await cluster.run("ours", 10)
    labels = discovered(nvidia_programs, two_gpus, tmp_path)
    name = cluster.node.name
    await cluster.kube.patch(NODES, name, {"metadata": {"labels": labels}}, type=PatchType.MERGE)
    await cluster.apply({"10gb": 1}, {"20gb": 1})
    await cluster.offers({"nvidia.com/gpu-10gb": 1, "nvidia.com/gpu-20gb": 1})
    kept = (await cluster.kube.read(NODES, name))["metadata"]["labels"]
    assert labels.items() <= kept.items()
