"""Every write is refused by the real API server once its object is another than decided on."""

from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, PatchType
from mpslice.kube.errors import ApiError, Conflict
from mpslice.kube.session import Session
from mpslice.nodelayout import GpuSpec, LayoutSpec, parse_node_layout
from mpslice.slices import SliceSize
from planner.model.nodes import Node
from planner.model.pods import GATE, Pod
from planner.state.parse import parse_node, parse_pod
from planner.writes.actions import (
    Action,
    CreateLayout,
    DeleteLayout,
    Nominate,
    SetManaged,
    Ungate,
    WriteSpec,
)
from planner.writes.perform import perform
from tests.planner.agents import add_node
from tests.planner.pods import slice_pod

SPEC = LayoutSpec((GpuSpec(GpuUuid("GPU-1"), {SliceSize(10): 1}),))


async def a_pod(kube: Session, **options: Any) -> Pod:
    created = await kube.create(PODS, slice_pod("p", 10, **options), namespace="default")
    return parse_pod(created)


async def a_node(kube: Session) -> Node:
    await add_node(kube, "n1")
    return parse_node(await kube.read(NODES, "n1"))


async def refused(kube: Session, action: Action) -> None:
    with pytest.raises(Conflict):
        await perform(kube, action)


async def layout_spec(kube: Session) -> Json:
    spec: Json = (await kube.read(NODE_LAYOUTS, "n1"))["spec"]
    return spec


async def test_layout_is_written_on_the_version_that_was_decided_on(kube: Session) -> None:
    node = await a_node(kube)
    layout = parse_node_layout(await perform(kube, CreateLayout(node)))
    written = parse_node_layout(await perform(kube, WriteSpec(layout, SPEC)))
    assert written.spec == SPEC
    await refused(kube, WriteSpec(layout, LayoutSpec(release=True)))
    await refused(kube, DeleteLayout(layout))
    assert (await layout_spec(kube))["release"] is False
    await perform(kube, WriteSpec(written, LayoutSpec(release=True)))
    assert await layout_spec(kube) == {"release": True, "gpus": []}


async def test_no_account_is_kept_of_who_wrote_which_field_of_a_layout(kube: Session) -> None:
    """It would take up to a quarter of the time of a write."""
    node = await a_node(kube)
    layout = parse_node_layout(await perform(kube, CreateLayout(node)))
    written = await perform(kube, WriteSpec(layout, SPEC))
    assert "managedFields" not in written["metadata"]
    status = {"status": {"observedGeneration": 2}}
    reported = await kube.patch(
        NODE_LAYOUTS, "n1", status, type=PatchType.MERGE, subresource="status"
    )
    assert "managedFields" not in reported["metadata"]


async def test_layout_that_is_there_already_is_not_made_anew(kube: Session) -> None:
    node = await a_node(kube)
    layout = parse_node_layout(await perform(kube, CreateLayout(node)))
    await perform(kube, WriteSpec(layout, SPEC))
    assert await perform(kube, CreateLayout(node)) == {}
    assert parse_node_layout(await kube.read(NODE_LAYOUTS, "n1")).spec == SPEC


async def test_gate_is_taken_and_pod_nominated_as_they_were_seen(kube: Session) -> None:
    await a_node(kube)
    pod = await a_pod(kube)
    nominated = parse_pod(await perform(kube, Nominate(pod, "n1")))
    assert nominated.nominated == "n1"
    await refused(kube, Ungate(pod, carved=True))
    await refused(kube, Nominate(pod, ""))
    let_go = parse_pod(await perform(kube, Ungate(nominated, carved=True)))
    assert let_go.gates == ()


async def test_gates_of_others_stay(kube: Session) -> None:
    pod = await a_pod(kube, schedulingGates=[{"name": GATE}, {"name": "example.com/quota"}])
    assert parse_pod(await perform(kube, Ungate(pod, carved=False))).gates == ("example.com/quota",)


async def test_pod_of_the_same_name_is_another(kube: Session) -> None:
    old = await a_pod(kube)
    await kube.delete(PODS, "p", namespace="default", grace_seconds=0)
    new = await a_pod(kube)
    for action in (Ungate(old, carved=True), Nominate(old, "n1")):
        await refused(kube, action)
    assert parse_pod(await kube.read(PODS, "p", namespace="default")).gates == new.gates


async def test_node_of_the_same_name_is_another(kube: Session) -> None:
    old = await a_node(kube)
    await kube.delete(NODES, "n1")
    await a_node(kube)
    with pytest.raises(ApiError, match=r"metadata\.uid"):
        await perform(kube, SetManaged(old, managed=True))
