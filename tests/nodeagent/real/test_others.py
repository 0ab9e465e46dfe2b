"""Other people's programs beside ours: device plugins, judged by what a real kubelet shows of them,
and whoever asks it all the time."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from hack.cluster.layout import CHECKOUT
from mpslice.kube.api import Json
from tests.nodeagent.conftest import device, gpu, resource
from tests.nodeagent.real.cluster import Cluster, plain_container
from tests.nodeagent.real.foreign_plugin import foreign_plugin
from tests.waiting import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("machine_without_node")

WHOLE = "nvidia.com/gpu"


async def reasons(cluster: Cluster) -> list[str | None]:
    return [entry.get("reason") for entry in (await cluster.status()).get("gpus") or ()]


async def test_gpu_of_another_plugin_is_ours_once_plugin_and_pods_are_gone(
    cluster: Cluster,
) -> None:
    directory = cluster.node.device_plugin_dir
    async with foreign_plugin(directory, "other.sock", WHOLE, [gpu(2)], {}):
        whole = {"resources": {"limits": {WHOLE: "1"}}}
        await cluster.create_plain("whole", {**plain_container(), **whole})
        await cluster.ready("whole")
        await cluster.apply({"10gb": 1}, {"10gb": 1})

        async def refused() -> bool:
            return await reasons(cluster) == [None, "ForeignPlugin"]

        await eventually(refused, "the other plugin's GPU is left alone")

        async def withdrawn() -> bool:
            return (await cluster.slices()).keys() == {device(1, 10, 0)}

        await eventually(withdrawn, "nothing of ours is there")

    async def forgotten() -> bool:
        node = cluster.plane.api.get(f"/api/v1/nodes/{cluster.node.name}")
        return str(node["status"]["allocatable"].get(WHOLE, "0")) == "0"

    await eventually(forgotten, "the node offers it no more")
    assert await reasons(cluster) == [None, "ForeignPlugin"], "its pod still runs"
    await cluster.delete("whole")

    async def ours() -> bool:
        return (await cluster.slices()).keys() == {device(1, 10, 0), device(2, 10, 0)}

    await eventually(ours, "carved")


def nos(cluster: Cluster) -> AbstractAsyncContextManager[None]:
    """nos's plugin: our names, and answers without our variables."""
    return foreign_plugin(
        cluster.node.device_plugin_dir,
        "nvidia-gpu-10gb.sock",
        resource(10),
        [device(1, 10, n) for n in range(2)],
        {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=10G", "NVIDIA_VISIBLE_DEVICES": gpu(1)},
    )


async def test_node_of_nos_is_left_in_peace_until_its_last_pod_has_ended(cluster: Cluster) -> None:
    async with nos(cluster):
        plugins = {"path": str(cluster.node.device_plugin_dir)}
        mounts = [{"name": "plugins", "hostPath": plugins}]
        server = plain_container("nvidia-mps-server")
        await cluster.create_plain("plugin", server, volumes=mounts)
        theirs = await cluster.run("theirs", 10)
        await cluster.apply({"20gb": 1}, {})

        async def said() -> Json | None:
            ready = await cluster.condition("Ready")
            message = ready["message"]
            both = "1 slice pod of nos" in message and "default/plugin" in message
            return ready if both else None

        ready = await eventually(said, "it is counted")
        assert ready is not None
        assert (ready["status"], ready["reason"]) == ("False", "ForeignPartitioner")
        await cluster.agent.stop()
        cluster.agent.start()
        generation = await cluster.lay_out({"20gb": 2}, {})
        await cluster.acknowledged(generation)
        assert await cluster.slices() == {}
        view = await cluster.kubelet_view()
        assert view.healthy == {device(1, 10, 0), device(1, 10, 1)}, "nos's, as they were"
    await cluster.delete("plugin")
    cluster.agent.end()
    cluster.agent.start()  # with no plugin in sight, only the checkpoint tells whose slice it is
    generation = await cluster.lay_out({"20gb": 1}, {})
    await cluster.acknowledged(generation)
    assert (await cluster.condition("Ready"))["reason"] == "ForeignPartitioner"
    assert await cluster.slices() == {}
    now = await cluster.ready("theirs")
    assert now["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert now["status"]["containerStatuses"][0]["restartCount"] == 0
    await cluster.delete("theirs")

    async def carved() -> bool:
        return (await cluster.slices()).keys() == {device(1, 20, 0)}

    await eventually(carved, "ours now")
    assert (await cluster.condition("Ready"))["status"] == "True"


@asynccontextmanager
async def exhausted(cluster: Cluster) -> AsyncIterator[None]:
    """Somebody asks the kubelet's PodResources without pause, and it refuses most of all calls."""
    socket = str(cluster.node.pod_resources_socket)
    command = [sys.executable, "-m", "tests.nodeagent.real.hog", socket]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        try:
            await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), DEADLINE)
            yield
        finally:
            process.kill()


async def test_slices_come_and_go_while_somebody_else_uses_up_the_kubelets_calls(
    cluster: Cluster,
) -> None:
    """It takes 100 a second from all who ask together."""
    await cluster.apply({"10gb": 2}, {})
    async with exhausted(cluster):
        for layout in ({"10gb": 1, "20gb": 1}, {"30gb": 1}, {}, {"10gb": 1}):
            await cluster.apply(layout, {})
            assert (await cluster.condition("Applied"))["status"] == "True"
        await cluster.run("train", 10)
        await cluster.holder_is("train")

        async def serves() -> bool:
            return {"status": "True"}.items() <= (await cluster.condition("Ready")).items()

        await eventually(serves, "it serves all the same")
