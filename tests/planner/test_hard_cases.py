"""What nos's planner gets wrong, on the real control plane; test_packing.py has the pure cases."""

import asyncio
from typing import Any

from mpslice.kube.api import EVENTS, NODE_LAYOUTS, NODES, PODS, PatchType, list_all
from mpslice.kube.session import Session
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    parse_node_layout,
    status_to_json,
)
from mpslice.slices import SliceSize, resource_name
from tests.planner.agents import add_node, gpu_of
from tests.planner.conftest import planning, served
from tests.planner.pods import bound, delete_pod, slice_pod
from tests.waiting import eventually


async def create(kube: Session, *pods: dict[str, Any]) -> None:
    await asyncio.gather(*(kube.create(PODS, pod, namespace="default") for pod in pods))


async def slices(kube: Session, node: str) -> dict[str, int]:
    """What a node's layout wants, all of its GPUs together."""
    layout = await kube.read(NODE_LAYOUTS, node)
    total: dict[str, int] = {}
    for gpu in layout["spec"].get("gpus") or ():
        for size, count in (gpu.get("slices") or {}).items():
            total[size] = total.get(size, 0) + count
    return total


def on(node: str) -> dict[str, Any]:
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


async def leave_free_slice(kube: Session, node: str, size: int) -> None:
    """A pod comes and goes, and its slice stays."""
    await create(kube, slice_pod("gone", size, **on(node)))
    await bound(kube, "gone")
    await delete_pod(kube, "gone")

    async def free() -> bool:
        layout = parse_node_layout(await kube.read(NODE_LAYOUTS, node))
        standing = [s for gpu in layout.status.gpus for s in gpu.slices] if layout.status else []
        return bool(standing) and not any(s.pod for s in standing)

    await eventually(free, "the slice is free")


async def test_free_slice_on_a_cordoned_node_is_no_slice(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [80], "n2": [80]}):
        await leave_free_slice(kube, "n1", 10)
        cordon = {"spec": {"unschedulable": True}}
        await kube.patch(NODES, "n1", cordon, type=PatchType.MERGE)
        await create(kube, slice_pod("p", 10))
        assert await bound(kube, "p") == "n2"
        assert await slices(kube, "n1") == {"10gb": 1}


async def test_one_free_slice_hides_no_other_that_is_lacking(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await leave_free_slice(kube, "n1", 10)
        await create(kube, *(slice_pod(f"p{i}", 10) for i in range(3)))
        for i in range(3):
            await bound(kube, f"p{i}")
        assert await slices(kube, "n1") == {"10gb": 3}


async def test_small_pods_pinned_to_one_node_do_not_starve_a_large_one_elsewhere(
    kube: Session,
) -> None:
    for name in ("n0", "n1"):
        await add_node(kube, name)
    async with planning(kube, {"n0": [80], "n1": [80]}):
        small = [slice_pod(f"small{i}", 10, **on("n1")) for i in range(8)]
        await create(kube, *small, slice_pod("large", 40, **on("n0")))
        for i in range(8):
            assert await bound(kube, f"small{i}") == "n1"
        assert await bound(kube, "large") == "n0"
        assert await slices(kube, "n0") == {"40gb": 1}
        assert await slices(kube, "n1") == {"10gb": 8}


async def test_two_halves_share_one_gpu(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [40]}):
        await create(kube, slice_pod("a", 20), slice_pod("b", 20))
        assert [await bound(kube, name) for name in ("a", "b")] == ["n1", "n1"]


async def test_pod_that_is_bound_and_then_runs_is_placed_once(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [80], "n2": [80]}):
        await create(kube, slice_pod("p", 10))
        node = await bound(kube, "p")
        running = {"status": {"phase": "Running"}}
        await kube.patch(
            PODS, "p", running, type=PatchType.MERGE, namespace="default", subresource="status"
        )
        await create(kube, slice_pod("next", 20))
        await bound(kube, "next")
        both = [await slices(kube, name) for name in ("n1", "n2")]
        assert sorted(size for each in both for size in each) == ["10gb", "20gb"]
        assert (await slices(kube, node))["10gb"] == 1


async def test_node_that_has_lost_its_agent_is_left_for_another(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [80], "n2": [40]}) as agents:
        await leave_free_slice(kube, "n1", 50)
        agents.slow.add("n1")
        nothing = {resource_name(SliceSize(50)): "0"}
        gone = {"status": {"capacity": nothing, "allocatable": nothing}}
        await kube.patch(NODES, "n1", gone, type=PatchType.MERGE, subresource="status")
        await create(kube, slice_pod("p", 30))
        assert await bound(kube, "p") == "n2"


async def test_deleted_node_is_not_planned_on(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [80], "n2": [40]}):
        await leave_free_slice(kube, "n1", 30)
        await kube.delete(NODES, "n1")
        await create(kube, slice_pod("p", 30))
        assert await bound(kube, "p") == "n2"


async def test_room_that_appears_when_a_pod_ends_is_seen(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await create(kube, slice_pod("first", 60))
        await bound(kube, "first")
        await create(kube, slice_pod("second", 60))
        done = {"status": {"phase": "Succeeded"}}
        await kube.patch(
            PODS, "first", done, type=PatchType.MERGE, namespace="default", subresource="status"
        )
        assert await bound(kube, "second") == "n1"


def overfull(node: str) -> LayoutStatus:
    """A GPU of 80gb with 100gb in use."""
    ready = Condition(ConditionType.READY, True, "Test", "", "2026-01-01T00:00:00Z")
    raw = [
        {"id": f"{gpu_of(node, 0)}::50::{k}", "state": "Used", "pod": f"default/x{k}"}
        for k in range(2)
    ]
    gpu = {
        "uuid": gpu_of(node, 0),
        "index": 0,
        "memoryMiB": 81920,
        "capacityGB": 80,
        "slices": raw,
    }
    parsed = parse_node_layout({"metadata": {"name": node}, "status": {"gpus": [gpu]}})
    assert parsed.status is not None
    gpus: tuple[GpuStatus, ...] = parsed.status.gpus
    return LayoutStatus(1, gpus, (ready,))


async def test_node_that_contradicts_itself_stops_no_other(kube: Session) -> None:
    for name in ("bad", "n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [80], "n2": [80]}):

        async def layout_is_there() -> bool:
            items = await list_all(kube, NODE_LAYOUTS)
            return any(item["metadata"]["name"] == "bad" for item in items)

        await eventually(layout_is_there, "the node has a layout")
        body = {"status": status_to_json(overfull("bad"))}
        await kube.patch(NODE_LAYOUTS, "bad", body, type=PatchType.MERGE, subresource="status")
        await create(kube, slice_pod("a", 80), slice_pod("b", 80))
        assert {await bound(kube, name) for name in ("a", "b")} == {"n1", "n2"}

        async def told() -> list[str]:
            return [
                event["message"]
                for event in await list_all(kube, EVENTS)
                if event["reason"] == "NodeSetAside" and event["involvedObject"]["name"] == "bad"
            ]

        assert await eventually(told, "an Event is on the node") == [
            "100gb are used on GPU 0, which has 80gb; its GPUs are not planned on"
        ]
        assert await slices(kube, "bad") == {}


async def test_five_small_pods_touch_no_more_nodes_than_they_need(kube: Session) -> None:
    names = [f"n{i}" for i in range(6)]
    for name in names:
        await add_node(kube, name)
    async with planning(kube, {name: [40] for name in names}):
        await create(kube, *(slice_pod(f"p{i}", 10) for i in range(5)))
        for i in range(5):
            await bound(kube, f"p{i}")
        carved = [name for name in names if await slices(kube, name)]
        assert len(carved) == 2


async def test_five_sizes_on_many_empty_gpus_are_all_bound(kube: Session) -> None:
    """nos carves no slice of 40gb and none of 80gb."""
    names = [f"n{i:03}" for i in range(100)]
    await asyncio.gather(*(add_node(kube, name) for name in names))
    sizes = [5, 10, 20, 40, 80] * 100
    async with planning(kube, {name: [80] * 8 for name in names}):
        await served(kube, *names)
        for start in range(0, len(sizes), 50):
            batch = enumerate(sizes[start : start + 50], start)
            await create(kube, *(slice_pod(f"p{i}", size) for i, size in batch))

        async def all_bound() -> bool:
            pods = await list_all(kube, PODS, namespace="default")
            return all(pod["spec"].get("nodeName") for pod in pods)

        await eventually(all_bound, "all 500 pods are bound", every=0.2)
