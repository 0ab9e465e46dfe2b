"""Nodes handed over and back on the real API server, when things do not go straight on."""

import asyncio

import pytest

from mpslice.kube.api import EVENTS, NODE_LAYOUTS, NODES, Json, PatchType, list_all
from mpslice.kube.errors import Conflict, NotFound
from mpslice.kube.session import Session
from planner.writes.actions import MANAGED_LABEL
from tests.planner.agents import LABEL, add_node, gpu_of
from tests.planner.conftest import planning, served
from tests.planner.pods import bound, delete_pod, make, slice_pod
from tests.waiting import eventually

KEY = next(iter(LABEL))


async def label(kube: Session, node: str, value: str | None) -> None:
    body = {"metadata": {"labels": {KEY: value}}}
    await kube.patch(NODES, node, body, type=PatchType.MERGE)


async def layout_of(kube: Session, node: str) -> Json:
    try:
        return await kube.read(NODE_LAYOUTS, node)
    except NotFound:
        return {}


async def is_released(kube: Session, node: str) -> bool:
    found = await kube.read(NODES, node)
    return not await layout_of(kube, node) and MANAGED_LABEL not in found["metadata"]["labels"]


async def is_releasing(kube: Session, node: str) -> bool:
    layout = await layout_of(kube, node)
    return bool(layout and layout["spec"]["release"])


async def test_node_that_is_labelled_again_while_it_is_handed_back_serves_again(
    kube: Session,
) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await served(kube, "n1")
        await make(kube, slice_pod("holder", 10))
        await bound(kube, "holder")
        await label(kube, "n1", None)
        await eventually(lambda: is_releasing(kube, "n1"), "the layout says release")
        await label(kube, "n1", "mps")
        await make(kube, slice_pod("next", 20))
        assert await bound(kube, "next") == "n1"
        layout = await layout_of(kube, "n1")
        held = {s["pod"] for s in layout["status"]["gpus"][0]["slices"] if s["state"] == "Used"}
        assert "default/holder" in held
        node = await kube.read(NODES, "n1")
        assert node["metadata"]["labels"][MANAGED_LABEL] == "true"


async def test_node_is_given_back_when_its_last_pod_has_ended(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await served(kube, "n1")
        await make(kube, slice_pod("holder", 10))
        await bound(kube, "holder")
        await label(kube, "n1", None)
        await eventually(lambda: is_releasing(kube, "n1"), "the layout says release")
        node = await kube.read(NODES, "n1")
        assert node["metadata"]["labels"][MANAGED_LABEL] == "true", "its agents have to stay"
        await delete_pod(kube, "holder")
        await eventually(lambda: is_released(kube, "n1"), "the node is released")


async def test_label_flapping_ends_in_what_it_says_last(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await served(kube, "n1")
        for _ in range(4):
            await label(kube, "n1", None)
            await asyncio.sleep(0.02)  # somewhere in the middle of what that sets off
            await label(kube, "n1", "mps")
            await asyncio.sleep(0.02)
        await make(kube, slice_pod("p", 10))
        assert await bound(kube, "p") == "n1"
        await delete_pod(kube, "p")
        await label(kube, "n1", None)
        await eventually(lambda: is_released(kube, "n1"), "the node is released")


async def test_node_whose_agent_never_came_is_given_back(kube: Session) -> None:
    """As on a node without a driver, where the agent cannot start."""
    await add_node(kube, "n1")
    async with planning(kube, {}):

        async def is_managed() -> bool:
            node = await kube.read(NODES, "n1")
            return MANAGED_LABEL in node["metadata"]["labels"] and bool(await layout_of(kube, "n1"))

        await eventually(is_managed, "the node is handed over")
        await label(kube, "n1", None)
        await eventually(lambda: is_released(kube, "n1"), "the node is given back")


async def test_node_whose_managed_label_was_lost_is_released_by_its_agents(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}) as agents:
        await served(kube, "n1")
        await make(kube, slice_pod("holder", 10))
        await bound(kube, "holder")
        agents.slow = {"n1"}  # they are gone
        gone = {"metadata": {"labels": {KEY: None, MANAGED_LABEL: None}}}
        await kube.patch(NODES, "n1", gone, type=PatchType.MERGE)

        async def is_managed() -> bool:
            node = await kube.read(NODES, "n1")
            return bool(node["metadata"]["labels"].get(MANAGED_LABEL) == "true")

        await eventually(is_managed, "the agents are called back")
        await delete_pod(kube, "holder")
        agents.hurry()
        await eventually(lambda: is_released(kube, "n1"), "the node is given back")


async def test_node_made_anew_under_its_old_name_gets_a_layout_of_its_own(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await served(kube, "n1")
        await make(kube, slice_pod("before", 10))
        await bound(kube, "before")
        old = await layout_of(kube, "n1")
        await kube.delete(NODES, "n1")
        await delete_pod(kube, "before")
        await add_node(kube, "n1")
        await make(kube, slice_pod("after", 20))

        async def is_new() -> bool:
            layout = await layout_of(kube, "n1")
            return bool(layout) and layout["metadata"]["uid"] != old["metadata"]["uid"]

        await eventually(is_new, "there is another layout")
        assert await bound(kube, "after") == "n1"


async def test_layout_is_deleted_only_as_it_was_seen(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await served(kube, "n1")
    layout = await layout_of(kube, "n1")
    metadata = layout["metadata"]
    with pytest.raises(Conflict):
        await kube.delete(NODE_LAYOUTS, "n1", uid="another")
    with pytest.raises(Conflict):
        await kube.delete(NODE_LAYOUTS, "n1", resource_version="1")
    version = metadata["resourceVersion"]
    await kube.delete(NODE_LAYOUTS, "n1", uid=metadata["uid"], resource_version=version)
    assert await layout_of(kube, "n1") == {}


async def test_node_with_an_unreadable_layout_is_told_so_and_stops_no_other(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [80], "n2": [80]}) as agents:
        await served(kube, "n1", "n2")
        agents.slow = {"n1"}
        stray = {"id": f"{gpu_of('n2', 0)}::10::0", "size": "10gb", "state": "Free", "limitMiB": 1}
        status = (await layout_of(kube, "n1"))["status"]
        status["gpus"][0]["slices"] = [stray]
        await kube.patch(
            NODE_LAYOUTS, "n1", {"status": status}, type=PatchType.MERGE, subresource="status"
        )

        async def told() -> list[str]:
            events = await list_all(kube, EVENTS, namespace="default")
            return [e["message"] for e in events if e["reason"] == "UnreadableLayout"]

        texts = await eventually(told, "the node is told")
        assert "lists the slice" in texts[0]
        await make(kube, slice_pod("p", 10))
        assert await bound(kube, "p") == "n2"
