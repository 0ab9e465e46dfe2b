"""A node offers as much mpslice.io/gb as its pods may ask for, and none once it is released."""

import asyncio
from dataclasses import replace

import pytest

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json
from nodeagent.cluster.quota import asks_for_gb, until_nobody_asks_for_gb
from tests.nodeagent.conftest import NODE, Machine, pod_manifest, resource
from tests.nodeagent.fake_kube import FakeKube
from tests.waiting import DEADLINE

GB = "mpslice.io/gb"


@pytest.fixture
def counting(machine: Machine) -> Machine:
    """With `quota.enabled`."""
    machine.settings = replace(machine.settings, quota=True)
    return machine


def offered(machine: Machine) -> tuple[str | None, str | None]:
    """Of capacity and allocatable."""
    status = machine.kube.get(NODES, NODE)["status"]
    return status.get("capacity", {}).get(GB), status.get("allocatable", {}).get(GB)


async def until_offered(machine: Machine, gb: str | None) -> None:
    await machine.until(lambda: offered(machine) == (gb, gb), f"the node offers {gb}")


def asking(name: str, gb: str, *, node: str = "") -> Json:
    pod = pod_manifest(name, 10, node=node)
    pod["spec"]["containers"][0]["resources"]["requests"] = {resource(10): "1", GB: gb}
    return pod


async def test_node_offers_the_gb_of_its_gpus(counting: Machine) -> None:
    async with counting.agent():
        await counting.applied({"10gb": 1}, {})
        await until_offered(counting, "170")


async def test_nothing_is_offered_without_quota_or_without_a_layout(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {})
        assert offered(machine) == (None, None)
    machine.kube.remove(NODE_LAYOUTS, NODE)
    machine.settings = replace(machine.settings, quota=True)
    async with machine.agent():
        machine.kubelet.devices.clear()
        await machine.until(lambda: resource(10) in machine.kubelet.devices, "it serves")
        assert offered(machine) == (None, None)


async def test_kubelet_that_zeroes_it_is_corrected(counting: Machine) -> None:
    async with counting.agent():
        await counting.applied({"10gb": 1}, {})
        counting.kube.change(NODES, NODE, {"status": {"allocatable": {GB: "0"}}})
        await until_offered(counting, "170")


async def test_gpu_that_is_lost_or_kept_counts_with_what_stands_there(counting: Machine) -> None:
    async with counting.agent():
        await counting.applied({}, {"10gb": 1, "20gb": 1})
        key = await counting.run_pod(20)
        await counting.until(counting.holders, "the holder")
        counting.write_gpus({})
        await until_offered(counting, "115")  # 85 of the other GPU, and the 30 that stand
        counting.write_gpus({}, {})
        await until_offered(counting, "170")
        annotations = {"annotations": {"mpslice.io/exclude-gpus": "0"}}
        counting.kube.change(NODES, NODE, {"metadata": annotations})
        await until_offered(counting, "85")
        counting.end_pod(key)


async def test_released_node_offers_what_its_pods_hold_and_then_nothing(counting: Machine) -> None:
    async with counting.agent():
        await counting.applied({"10gb": 2}, {"40gb": 1})
        key = await counting.run_pod(10)
        await counting.acknowledged(counting.lay_out({"10gb": 2}, release=True))
        await until_offered(counting, "10")
        counting.end_pod(key)
        await counting.until(lambda: counting.condition("Released").get("status") == "True", "end")
        assert offered(counting) == (None, None)
        counting.kube.remove(NODE_LAYOUTS, NODE)
        counting.kube.change(NODES, NODE, {"status": {"allocatable": {resource(40): "7"}}})
        await counting.until(lambda: counting.allocatable() == {}, "the agent still writes")
        assert offered(counting) == (None, None)


async def test_turned_off_it_stays_true_until_no_pod_waits_for_it(
    counting: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counting.agent():
        await counting.applied({"10gb": 1}, {})
        await until_offered(counting, "170")
    counting.settings = replace(counting.settings, quota=False)
    nobody_asks = asyncio.Event()

    async def wait(_kube: object) -> None:
        await nobody_asks.wait()

    monkeypatch.setattr("nodeagent.controller.until_nobody_asks_for_gb", wait)
    async with counting.agent():
        await counting.acknowledged(1)
        counting.write_gpus({})
        await until_offered(counting, "85")
        nobody_asks.set()
        await until_offered(counting, None)


async def test_pods_that_wait_and_a_server_that_is_away_prolong_the_wait() -> None:
    kube = FakeKube()
    kube.put(PODS, asking("runs", "10", node=NODE))
    kube.put(PODS, asking("none", "0"))
    kube.put(PODS, asking("waits", "10"))
    task = asyncio.create_task(until_nobody_asks_for_gb(kube, quiet=0.05, look=0.01))
    done, _ = await asyncio.wait([task], timeout=0.5)
    assert not done
    kube.remove(PODS, "waits", "default")
    await asyncio.wait_for(task, DEADLINE)


def test_requests_of_every_container_count() -> None:
    assert asks_for_gb(asking("p", "10"))
    assert not asks_for_gb(asking("p", "0"))
    assert not asks_for_gb({"spec": {"containers": [{"name": "main"}]}})
    init = {"name": "i", "resources": {"requests": {GB: "5"}}}
    assert asks_for_gb({"spec": {"containers": [{"name": "main"}], "initContainers": [init]}})
