"""The controller where watches are out of step or never rest, or show what cannot be read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, Json, Query, Resource
from mpslice.nodelayout import LayoutSpec, parse_node_layout
from planner.state.cluster import Cluster
from planner.writes.actions import WriteSpec
from tests.planner.leading import layout_object, leading, node_object, pod_object, until
from tests.planner.memory import Memory
from tests.planner.test_decide import a_layout
from tests.waiting import eventually


class Restless(Memory):
    """A node changes all the time."""

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        if resource is NODES:
            for number in range(1_000_000):
                await asyncio.sleep(0)
                changed = node_object("n1", {}, number=str(number))
                yield {"type": "MODIFIED", "object": self.stamped(changed)}
        async for event in super().watch(resource, namespace=namespace, query=query):
            yield event


async def test_pod_is_told_why_it_waits_although_the_cluster_never_rests() -> None:
    kube = Restless(
        nodes=[node_object("n1", {})],
        nodelayouts=[layout_object(a_layout("n1"))],
        pods=[pod_object("huge", 500, "2026-01-01T00:00:00Z", gated=False)],
    )
    async with leading(kube) as recorder:
        await eventually(
            until(lambda: ("huge", "SliceUnavailable") in recorder.said),
            "the pod is told why it waits",
        )


async def test_labels_of_a_namespace_that_is_seen_after_its_pods_are_decided_upon() -> None:
    kube = Memory()
    heard = 0

    def on_change() -> None:
        nonlocal heard
        heard += 1

    cluster = Cluster(kube, lambda _change: None, on_change)
    following = asyncio.create_task(cluster.follow())
    try:

        async def listed() -> bool:
            return cluster.is_synced

        async def known(name: str) -> bool:
            return name in cluster.namespaces

        await eventually(listed, "all is listed")
        kube.show(NAMESPACES, {"metadata": {"name": "plain"}})
        await eventually(lambda: known("plain"), "the namespace is seen")
        assert heard == 0  # it has no label but its name, as was assumed
        kube.show(NAMESPACES, {"metadata": {"name": "team-a", "labels": {"team": "a"}}})
        await eventually(lambda: known("team-a"), "the namespace is seen")
        assert heard == 1
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_layout_is_written_on_top_of_what_its_agent_has_reported_since() -> None:
    """A report changes the version of the object, and the spec is the one that was decided on."""
    decided_on = parse_node_layout(layout_object(a_layout("n1")))
    kube = Memory(nodelayouts=[layout_object(a_layout("n1"))])
    cluster = Cluster(kube, lambda _change: None, lambda: None)
    following = asyncio.create_task(cluster.follow())

    def version() -> str:
        action = cluster.on_newest(WriteSpec(decided_on, LayoutSpec()))
        assert isinstance(action, WriteSpec)
        return action.layout.resource_version

    def shows(generation: int, uid: str = "n1") -> Callable[[], Awaitable[bool]]:
        shown = layout_object(replace(a_layout("n1"), uid=uid))
        shown["metadata"]["generation"] = generation
        kube.show(NODE_LAYOUTS, shown, "MODIFIED")
        return until(lambda: cluster.layouts["n1"].resource_version == str(kube.version))

    try:
        await eventually(until(lambda: cluster.is_synced), "all is listed")
        await eventually(shows(1), "the report is seen")
        assert version() == str(kube.version)
        for other in ((2, "n1"), (1, "another node's")):
            await eventually(shows(*other), "another spec or object is seen")
            assert version() == decided_on.resource_version
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_node_with_a_pod_that_cannot_be_read_is_told_of() -> None:
    """As no API server would send it."""
    odd = pod_object("odd", 10, "2026-01-01T00:00:00Z", gated=False, nodeName="n1")
    odd["spec"]["tolerations"] = "all"
    odd_node = node_object("n2", {})
    odd_node["spec"] = {"taints": [{"key": ["x"], "effect": "NoSchedule"}]}
    kube = Memory(
        nodes=[node_object("n1", {}), odd_node, node_object("n3", {})],
        nodelayouts=[layout_object(a_layout(name)) for name in ("n1", "n2", "n3")],
        pods=[odd, pod_object("p", 10, "2026-01-01T00:00:00Z")],
    )
    async with leading(kube) as recorder:
        await eventually(until(lambda: ("n3", None) in kube.seen), "the node left is carved")
        told = {("n1", "NodeSetAside"), ("n2", "NodeSetAside")}
        await eventually(until(lambda: told <= set(recorder.said)), "the others are told of")
    assert {"n1", "n2"}.isdisjoint(name for name, _ in kube.seen)
