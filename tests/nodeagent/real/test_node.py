"""Carving, running, withdrawing and coming back on a real kubelet, scheduler and containerd."""

import asyncio
import subprocess
import sys
import time

import pytest

from mpslice.kube.api import NODES
from tests.nodeagent.conftest import device, gpu, resource
from tests.nodeagent.real.agent_process import wait_for_line
from tests.nodeagent.real.cluster import Cluster, container_of
from tests.waiting import DEADLINE, eventually

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("machine_without_node")]


async def test_pod_runs_in_its_slice_and_the_slice_makes_room_when_it_ends(
    cluster: Cluster,
) -> None:
    await cluster.apply({"10gb": 1, "20gb": 1}, {})
    await cluster.offers({resource(10): 1, resource(20): 1})
    await cluster.run("train", 10)
    environment = await cluster.printed("train")
    for line in (
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=9533M",
        "CUDA_MPS_PIPE_DIRECTORY=/run/mpslice/pipe",
        "MPSLICE_MEMORY_MIB=9533",
        "MPSLICE_MEMORY_FRACTION=0.1164",
        f"NVIDIA_VISIBLE_DEVICES={gpu(1)}",
    ):
        assert line in environment
    assert await cluster.holder_is("train") == device(1, 10, 0)
    await cluster.apply({"80gb": 1}, {})
    assert (await cluster.condition("Applied"))["reason"] == "SliceInUse"
    assert await cluster.slices() == {device(1, 10, 0): "default/train"}
    await cluster.delete("train")

    async def carved() -> bool:
        return await cluster.slices() == {device(1, 80, 0): ""}

    await eventually(carved, "its room is carved anew")
    await cluster.offers({resource(80): 1})
    assert (await cluster.condition("Applied"))["status"] == "True"


async def test_layout_is_resized_under_running_pods(cluster: Cluster) -> None:
    await cluster.apply({"10gb": 2, "20gb": 1}, {"40gb": 1})
    names = ("small", "large")
    await cluster.run("small", 10)
    await cluster.run("large", 40)
    processes = [await cluster.processes(name) for name in names]
    held = {await cluster.holder_is("small"), await cluster.holder_is("large")}
    for gpus in (
        ({"10gb": 1, "30gb": 2}, {"40gb": 1, "45gb": 1}),
        ({"10gb": 7}, {"40gb": 2}),
        ({"10gb": 1}, {"40gb": 1, "1gb": 40}),
    ):
        await cluster.apply(*gpus)
        assert (await cluster.condition("Applied"))["status"] == "True"
        assert held <= set(await cluster.slices())
        assert held <= (await cluster.kubelet_view()).healthy
    assert [await cluster.processes(name) for name in names] == processes
    assert [container_of(await cluster.pod(name))["restartCount"] for name in names] == [0, 0]


async def test_kubelet_never_takes_back_what_the_agent_wrote(cluster: Cluster) -> None:
    """Its sync, within 10.4 s, writes the same values."""
    await cluster.apply({"10gb": 3}, {"20gb": 1})
    await cluster.apply({"10gb": 2}, {"20gb": 2})
    wanted = {resource(10): 2, resource(20): 2}
    await cluster.offers(wanted)
    deadline = time.monotonic() + 10.5
    while time.monotonic() < deadline:
        assert await cluster.allocatable() == wanted
        await asyncio.sleep(0.25)


async def test_killed_agent_comes_back_to_the_same_slices_under_a_running_pod(
    cluster: Cluster,
) -> None:
    await cluster.apply({"10gb": 2, "20gb": 1}, {})
    await cluster.run("train", 10)
    await cluster.holder_is("train")
    slices, processes = await cluster.slices(), await cluster.processes("train")
    cluster.agent.end()
    cluster.agent.start()
    await cluster.apply({"10gb": 2, "20gb": 1}, {"5gb": 1})
    assert await cluster.slices() == {**slices, device(2, 5, 0): ""}
    await cluster.run("second", 10)
    assert await cluster.processes("train") == processes
    assert container_of(await cluster.pod("train"))["restartCount"] == 0


async def test_upgrade_leaves_nothing_to_be_bound_meanwhile_and_every_process_alive(
    cluster: Cluster,
) -> None:
    await cluster.apply({"10gb": 3}, {})
    await cluster.run("train", 10)
    await cluster.holder_is("train")
    processes = await cluster.processes("train")
    await cluster.agent.stop()
    assert (await cluster.allocatable()).get(resource(10), 0) <= 1
    assert (await cluster.condition("Ready"))["reason"] == "Stopping"
    await cluster.create("waits", 10)
    await cluster.unschedulable("waits")
    cluster.agent.start()
    await cluster.ready("waits")
    assert await cluster.processes("train") == processes

    async def ready_again() -> bool:
        # A pod may be let go before the agent has said anything: its slices were there.
        ready = (await cluster.condition("Ready"))["status"] == "True"
        return ready and await cluster.allocatable() == {resource(10): 3}

    await eventually(ready_again, "the node served again")


async def test_release_takes_everything_away_once_the_pods_have_ended(cluster: Cluster) -> None:
    await cluster.apply({"10gb": 1}, {"20gb": 2})
    await cluster.run("train", 10)
    await cluster.apply({"10gb": 1}, {"20gb": 2}, release=True)
    assert await cluster.slices() == {device(1, 10, 0): "default/train"}
    assert (await cluster.condition("Released"))["status"] == "False"
    await cluster.delete("train")

    async def released() -> bool:
        return (await cluster.condition("Released")).get("status") == "True"

    await eventually(released, "released")
    assert await cluster.slices() == {}
    await cluster.offers({})
    annotations = (await cluster.kube.read(NODES, cluster.node.name))["metadata"]["annotations"]
    assert not [key for key in annotations if key.startswith("nos.nebuly.com/")]


async def test_kubelet_learns_the_numa_node(cluster: Cluster) -> None:
    cluster.agent.end()
    cluster.agent.write_gpus({"numaNode": 0}, {})
    cluster.agent.start()
    await cluster.apply({"10gb": 1}, {"20gb": 1})
    await cluster.create("near", 10, stuck=True)
    await cluster.create("anywhere", 20, stuck=True)
    await cluster.admitted(("near", "anywhere"))
    checkpoint = cluster.node.device_plugin_dir / "kubelet_internal_checkpoint"
    wanted = {"0": device(1, 10, 0), "-1": device(2, 20, 0)}

    async def noted() -> bool:
        text = checkpoint.read_text()
        return all(f'"DeviceIDs":{{"{n}":["{id_}"]}}' in text for n, id_ in wanted.items())

    await eventually(noted, "the checkpoint has both")


async def test_failing_start_is_told_in_one_line_and_in_the_layout(cluster: Cluster) -> None:
    await cluster.apply({"10gb": 1}, {})
    cluster.agent.end()
    cluster.agent.write_gpus({"memoryMiB": "lots"})
    cluster.agent.start()
    wait_for_line(cluster.agent.log, "memoryMiB: 'lots' is not a whole number")

    async def told() -> bool:
        return (await cluster.condition("Ready")).get("reason") == "BadSimulation"

    await eventually(told, "the layout tells")
    assert "memoryMiB: 'lots'" in (await cluster.condition("Ready"))["message"]
    assert (await cluster.condition("Applied"))["status"] == "True"
    cluster.agent.write_gpus({}, {})
    cluster.agent.start()
    await cluster.apply({"10gb": 2}, {})
    assert (await cluster.condition("Ready"))["status"] == "True"


async def test_unknown_node_is_named(cluster: Cluster) -> None:
    folder = cluster.folder / "dp"
    folder.mkdir()
    flags = [flag for flag in cluster.agent.flags if "device-plugin" not in flag]
    command = [
        *(sys.executable, "-m", "nodeagent.main", *flags),
        *("--node-name=nobody", f"--device-plugin-dir={folder}"),
    ]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 1
    assert "the cluster has no node nobody" in done.stderr.splitlines()[-1]
