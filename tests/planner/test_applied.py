"""Layouts that nodes say are applied, before the layouts' own status says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mpslice.gpus import GpuUuid
from mpslice.kube.api import NODE_LAYOUTS, NODES, Json, Resource
from mpslice.nodelayout import (
    APPLIED_ANNOTATION,
    ConditionType,
    GpuSpec,
    LayoutStatus,
    NodeLayout,
)
from mpslice.slices import SliceSize
from planner.model.plan import Placement
from planner.state.applied import applied_by, is_news, with_applied
from planner.state.cluster import Cluster
from tests.api.patching import copied
from tests.planner.leading import layout_object, node_object, until
from tests.planner.memory import Memory
from tests.planner.test_decide import a_layout, a_node, a_pod
from tests.waiting import eventually


def wants(layout: NodeLayout, slices: dict[int, int]) -> NodeLayout:
    """The next generation of the layout, of which its status does not tell yet."""
    (gpu,) = layout.status.gpus if layout.status else ()
    spec = replace(
        layout.spec, gpus=(GpuSpec(gpu.uuid, {SliceSize(s): n for s, n in slices.items()}),)
    )
    return replace(layout, spec=spec, generation=layout.generation + 1)


def listed(layout: NodeLayout) -> dict[tuple[int, str], int]:
    """The slices of the status by size and state."""
    counts: dict[tuple[int, str], int] = {}
    for gpu in layout.status.gpus if layout.status else ():
        for entry in gpu.slices:
            key = int(entry.id.size), str(entry.state)
            counts[key] = counts.get(key, 0) + 1
    return counts


def applied(layout: NodeLayout) -> NodeLayout:
    found = applied_by(replace(a_node(), applied=layout.version_tag), layout)
    assert found is not None
    return found


def test_node_speaks_of_one_generation_of_one_object() -> None:
    layout = wants(a_layout(), {20: 1})
    node = replace(a_node(), applied=layout.version_tag)
    assert applied_by(node, layout) is not None
    assert applied_by(None, layout) is None
    assert applied_by(a_node(), layout) is None
    assert applied_by(node, replace(layout, generation=layout.generation + 1)) is None
    assert applied_by(node, replace(layout, uid="another")) is None
    known = applied_by(node, layout)
    following = replace(layout, generation=layout.generation + 1)
    assert applied_by(node, following, known) == known
    assert applied_by(a_node(), following, known) is None
    assert applied_by(None, following, known) is None


def test_it_is_news_until_the_layout_says_so_itself() -> None:
    layout = wants(a_layout(), {20: 1})
    news = applied(layout)
    assert is_news(news, layout)
    assert not is_news(news, replace(layout, uid="another"))
    assert not is_news(news, replace(layout, status=None))
    assert layout.status is not None
    told = replace(layout.status, observed_generation=layout.generation)
    assert not is_news(news, replace(layout, status=told))


def test_slices_stand_as_the_layout_has_them_and_used_ones_are_used_still() -> None:
    layout = wants(a_layout(used=[(10, "default/holder")], free={10: 2, 40: 1}), {10: 2, 20: 3})
    made = with_applied(layout, applied(layout))
    assert listed(made) == {(10, "Used"): 1, (10, "Free"): 1, (20, "Free"): 3}
    assert made.status is not None
    assert made.status.observed_generation == layout.generation
    assert made.status.is_true(ConditionType.APPLIED)
    assert made.status.is_true(ConditionType.READY)
    ids = [entry.id for gpu in made.status.gpus for entry in gpu.slices]
    assert len(set(ids)) == len(ids)


def test_gpu_that_is_not_listed_or_does_not_work_is_as_its_status_says() -> None:
    layout = a_layout(free={10: 1})
    left = replace(wants(layout, {20: 1}), spec=layout.spec)
    assert listed(with_applied(left, applied(left))) == {(10, "Free"): 1}
    assert layout.status is not None
    (gpu,) = layout.status.gpus
    sick = LayoutStatus(0, (replace(gpu, healthy=False),), layout.status.conditions)
    broken = replace(wants(layout, {20: 1}), status=sick)
    assert listed(with_applied(broken, applied(broken))) == {(10, "Free"): 1}


def test_status_with_more_used_than_the_layout_has_stays() -> None:
    layout = wants(a_layout(used=[(10, "default/holder")]), {20: 1})
    assert with_applied(layout, applied(layout)) is layout


def objects(layout: NodeLayout) -> tuple[Json, Json]:
    """The layout without and with the status that tells of its generation."""
    before = layout_object(layout)
    before["metadata"].update(uid=layout.uid, generation=layout.generation)
    after = layout_object(with_applied(layout, applied(layout)))
    after["metadata"] = before["metadata"]
    return before, after


@asynccontextmanager
async def seen_by_a_planner(kube: Memory) -> AsyncIterator[Cluster]:
    cluster = Cluster(kube, lambda _change: None, lambda: None)
    following = asyncio.create_task(cluster.follow())
    try:
        await eventually(until(lambda: cluster.is_synced), "all is listed")
        yield cluster
    finally:
        following.cancel()
        await asyncio.wait({following})


def a_node_with(layout: NodeLayout, shows: dict[str, str]) -> Json:
    node = node_object(layout.name, shows)
    node["metadata"]["annotations"] = {APPLIED_ANNOTATION: layout.version_tag}
    return node


@pytest.mark.parametrize("first", [NODES, NODE_LAYOUTS], ids=["node first", "layout first"])
async def test_what_a_node_tells_is_seen_and_lasts_until_the_layouts_own_status_tells_it(
    first: Resource,
) -> None:
    """Also while the next layout is ordered already."""
    layout = wants(a_layout(free={10: 1}), {20: 2})
    before, after = objects(layout)
    shown = {NODES: a_node_with(layout, {"nvidia.com/gpu-20gb": "2"}), NODE_LAYOUTS: before}
    twenties = {(20, "Free"): 2}
    kube = Memory(nodes=[node_object("n1", {})], nodelayouts=[layout_object(a_layout("n1"))])
    async with seen_by_a_planner(kube) as cluster:

        def seen() -> NodeLayout:
            return cluster.layouts["n1"]

        kube.show(first, shown.pop(first), "MODIFIED")
        ((second, obj),) = shown.items()
        kube.show(second, obj, "MODIFIED")
        await eventually(until(lambda: listed(seen()) == twenties), "both are seen")
        assert cluster.is_offered(Placement(a_pod("p", 20), "n1", (GpuUuid("n1-gpu"),)))
        third = copied(before)
        third["metadata"]["generation"] += 1
        third["spec"]["gpus"][0]["slices"] = {"40gb": 1}
        kube.show(NODE_LAYOUTS, third, "MODIFIED")
        await eventually(until(lambda: seen().generation == layout.generation + 1), "the next")
        assert listed(seen()) == twenties
        kube.show(NODE_LAYOUTS, {**after, "metadata": third["metadata"]}, "MODIFIED")
        await eventually(
            until(lambda: seen().resource_version == str(kube.version)), "the status is seen"
        )
        assert listed(seen()) == twenties
