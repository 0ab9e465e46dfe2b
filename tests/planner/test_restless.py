"""The controller where watches are out of step or never rest, and where writes are refused."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Json, PatchType, Query, Resource
from mpslice.kube.errors import ApiError
from mpslice.kube.events import EventType, ObjectRef
from mpslice.nodelayout import (
    LayoutSpec,
    NodeLayout,
    parse_node_layout,
    spec_to_json,
    status_to_json,
)
from planner import controller
from planner.controller import Controller
from planner.decide import Decision, View, decide
from planner.metrics import Metrics
from planner.state.absence import Absences
from planner.state.cluster import Cluster
from planner.words import storyteller
from planner.writes.actions import MANAGED_LABEL, WriteSpec
from tests.planner.agents import LABEL, node_manifest, node_status
from tests.planner.conftest import SETTINGS
from tests.planner.memory import Memory
from tests.planner.pods import slice_pod
from tests.planner.test_decide import a_layout
from tests.waiting import DEADLINE, eventually


class Recorder:
    """Keeps who was told what."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> bool:
        self.said.append((about.name, reason))
        return True


def node_object(name: str, shows: dict[str, str], **labels: str) -> Json:
    node: Json = node_manifest(name, labels={**LABEL, MANAGED_LABEL: "true", **labels})
    node.update(node_status())
    node["metadata"]["uid"] = name
    node["status"]["allocatable"] = {**node["status"]["allocatable"], **shows}
    return node


def layout_object(layout: NodeLayout) -> Json:
    assert layout.status is not None
    metadata = {"name": layout.name, "uid": layout.uid, "generation": 1}
    return {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": metadata,
        "spec": spec_to_json(layout.spec),
        "status": status_to_json(layout.status),
    }


def pod_object(name: str, size: int, created: str, **options: Any) -> Json:
    pod: Json = slice_pod(name, size, **options)
    pod["metadata"].update(uid=name, creationTimestamp=created)
    return pod


@asynccontextmanager
async def leading(
    kube: Memory, absences: Callable[[], Absences] = Absences
) -> AsyncIterator[Recorder]:
    recorder: Any = Recorder()
    planner = Controller(kube, SETTINGS, recorder, Metrics(), absences=absences)
    tasks = [asyncio.create_task(planner.follow()), asyncio.create_task(planner.lead())]
    try:
        yield recorder
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


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

        async def told() -> bool:
            return ("huge", "SliceUnavailable") in recorder.said

        await eventually(told, "the pod is told why it waits")


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


class Refusing(Memory):
    """The first `times` nominations get an answer that says no more than no. `asked` is what was
    written of pods, without their conditions.
    """

    def __init__(self, status: int, items: dict[str, list[Json]], times: int = 1_000) -> None:
        super().__init__(**items)
        self._status = status
        self._times = times
        self.asked: list[tuple[str, str | None]] = []

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        *,
        type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        answer = await super().patch(
            resource, name, body, type=type, namespace=namespace, subresource=subresource
        )
        status = body.get("status", {}) if isinstance(body, dict) else {}
        if subresource is not None and "nominatedNodeName" not in status:
            return answer
        self.asked.append((name, subresource))
        if subresource is None:
            return answer
        if self._times > 0:
            self._times -= 1
            raise ApiError("denied", status=self._status)
        return {**answer, "status": status}


def one_free_slice_and_a_rival() -> dict[str, list[Json]]:
    """One slice is free, for which a pod without a gate is the rival of an older one."""
    return {
        "nodes": [node_object("n1", {"nvidia.com/gpu-10gb": "1", "nvidia.com/gpu-70gb": "1"})],
        "nodelayouts": [layout_object(a_layout("n1", free={10: 1}, used=[(70, "default/other")]))],
        "pods": [
            pod_object("first", 10, "2026-01-01T00:00:00Z"),
            pod_object("rival", 10, "2026-01-02T00:00:00Z", gated=False),
        ],
    }


async def test_pod_is_nominated_although_the_planners_token_had_ended() -> None:
    kube = Refusing(401, one_free_slice_and_a_rival(), times=1)
    async with leading(kube):
        await eventually(until(lambda: ("first", None) in kube.seen), "its gate is taken away")
        assert kube.asked[:2] == [("first", "status"), ("first", "status")]


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


class Unwritable(Memory):
    """Nobody may write the layout of n1."""

    async def patch(self, resource: Resource, name: str, *arguments: Any, **options: Any) -> Json:
        if resource is NODE_LAYOUTS and name == "n1":
            raise ApiError("denied by policy x", status=422)
        return await super().patch(resource, name, *arguments, **options)


def a_pod_and_two_nodes() -> dict[str, list[Json]]:
    """Either node is empty and can hold the pod; n1 is the first."""
    return {
        "nodes": [node_object("n1", {}), node_object("n2", {})],
        "nodelayouts": [layout_object(a_layout(name)) for name in ("n1", "n2")],
        "pods": [pod_object("p", 20, "2026-01-01T00:00:00Z")],
    }


async def test_pod_is_placed_elsewhere_when_a_layout_cannot_be_written() -> None:
    kube = Unwritable(**a_pod_and_two_nodes())
    async with leading(kube, absences=lambda: Absences(silence=0.2)) as recorder:
        await eventually(until(lambda: ("n2", None) in kube.seen), "the other node is carved")
        await eventually(
            until(lambda: ("n1", "NodeAgentAway") in recorder.said), "the node is told of"
        )


async def test_pod_is_placed_elsewhere_when_an_agent_takes_no_layout() -> None:
    kube = Memory(**a_pod_and_two_nodes())
    async with leading(kube, absences=lambda: Absences(silence=0.2)):
        await eventually(until(lambda: ("n1", None) in kube.seen), "one node is carved")
        written = layout_object(a_layout("n1", spec={20: 1}))
        written["metadata"]["generation"] = 2
        kube.show(NODE_LAYOUTS, written, "MODIFIED")
        await eventually(until(lambda: ("n2", None) in kube.seen), "then the other")


@pytest.mark.parametrize(("status", "asked"), [(400, 1), (403, 1), (422, 1), (500, 3)])
async def test_pod_whose_nomination_is_refused_holds_up_nobody(
    status: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "FAULTS", 3)
    kube = Refusing(status, one_free_slice_and_a_rival())
    async with leading(kube):

        async def let_go() -> bool:
            return ("first", None) in kube.seen

        await eventually(let_go, "its gate is taken away")
        assert kube.asked.count(("first", "status")) == asked


async def test_pod_is_nominated_although_the_api_server_was_in_trouble_at_first() -> None:
    kube = Refusing(500, one_free_slice_and_a_rival(), times=3)
    async with leading(kube):

        async def let_go() -> bool:
            return ("first", None) in kube.seen

        await eventually(let_go, "its gate is taken away")
        before = kube.asked[: kube.asked.index(("first", None))]
        assert before.count(("first", "status")) == 4


async def test_planner_decides_nothing_while_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided = 0

    def counting(view: View) -> Decision:
        nonlocal decided
        decided += 1
        return decide(view)

    monkeypatch.setattr(controller, "decide", counting)
    kube = Memory(
        nodes=[node_object("n1", {})],
        nodelayouts=[layout_object(a_layout("n1"))],
        pods=[pod_object("huge", 500, "2026-01-01T00:00:00Z", gated=False)],
    )
    async with leading(kube) as recorder:

        async def told() -> bool:
            return bool(recorder.said)

        await eventually(told, "the first decision is told")
        before = decided
        await asyncio.sleep(1.5)  # longer than anything that it looks at again by itself
        assert decided == before


async def test_pods_that_wait_on_are_told_again_without_another_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided = 0

    def counting(view: View) -> Decision:
        nonlocal decided
        decided += 1
        return decide(view)

    monkeypatch.setattr(controller, "decide", counting)
    monkeypatch.setattr(storyteller, "REPEAT", 0.1)
    pods = [pod_object(name, 500, "2026-01-01T00:00:00Z", gated=False) for name in ("a", "b")]
    kube = Memory(
        nodes=[node_object("n1", {})], nodelayouts=[layout_object(a_layout("n1"))], pods=pods
    )
    async with leading(kube) as recorder:

        def told(name: str) -> int:
            return recorder.said.count((name, "SliceUnavailable"))

        await eventually(until(lambda: min(told("a"), told("b")) > 1), "both are told again")
        before = decided
        often = told("a") + 2
        await eventually(until(lambda: told("a") >= often), "and again")
        assert decided == before
        kube.show(PODS, pods[1], "DELETED")
        await eventually(until(lambda: decided > before), "it is decided without the one that left")
        last, often = told("b"), told("a") + 3
        await eventually(until(lambda: told("a") >= often), "the other is told again")
        assert told("b") == last


async def test_leader_does_all_else_while_it_decides_on_many_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above all it renews its lease, which it would lose every time."""
    begun, go_on = threading.Event(), threading.Event()

    def deciding(view: View) -> Decision:
        begun.set()
        assert go_on.wait(DEADLINE)
        return decide(view)

    monkeypatch.setattr(controller, "decide", deciding)
    pods = [pod_object(f"p{i}", 500, "2026-01-01T00:00:00Z", gated=False) for i in range(201)]
    kube = Memory(nodes=[node_object("n1", {})], nodelayouts=[], pods=pods)
    async with leading(kube) as recorder:

        async def is_deciding() -> bool:
            return begun.is_set()

        await eventually(is_deciding, "it decides")
        assert not recorder.said
        go_on.set()

        async def told() -> bool:
            return len(recorder.said) >= len(pods)

        await eventually(told, "all are told")


def until(holds: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def told() -> bool:
        return holds()

    return told


def ordinary(name: str, node: str = "n1", phase: str = "Running", cpu: str = "1") -> Json:
    """A pod without slices."""
    pod = pod_object(name, 1, "2026-01-01T00:00:00Z", gated=False, nodeName=node)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    pod["status"] = {"phase": phase}
    return pod


@pytest.mark.parametrize(
    ("size", "cpu", "event", "matters"),
    [
        (500, "1", ordinary("web", phase="Succeeded"), False),
        (10, "32", ordinary("web", phase="Succeeded"), True),
        (10, "32", ordinary("elsewhere", node="unlabelled"), False),
        (10, "1", ordinary("more"), True),
        (500, "1", ordinary("more"), False),
    ],
    ids=["no GPU is so large", "CPU comes free", "another node", "CPU is taken", "not wanted"],
)
async def test_pods_without_slices_are_decided_upon_only_where_they_could_alter_something(
    size: int, cpu: str, event: Json, matters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = 0

    def counting(view: View) -> Decision:
        nonlocal decided
        decided += 1
        return decide(view)

    monkeypatch.setattr(controller, "decide", counting)
    waiting = pod_object("waiting", size, "2026-01-01T00:00:00Z", gated=False)
    waiting["spec"]["containers"][0]["resources"]["requests"] = {"cpu": cpu}
    kube = Memory(
        nodes=[node_object("n1", {})],
        nodelayouts=[layout_object(a_layout("n1"))],
        pods=[ordinary("web"), waiting],
    )
    async with leading(kube):
        await eventually(until(lambda: ("waiting", "status") in kube.seen), "it is told")
        await asyncio.sleep(0.1)  # the answer has come
        before = decided
        kube.show(PODS, event, "MODIFIED")
        if not matters:
            await asyncio.sleep(0.3)
            assert decided == before
            kube.show(NAMESPACES, {"metadata": {"name": "last", "labels": {"a": "b"}}})
        await eventually(until(lambda: decided > before), "what matters is decided upon")


async def test_ready_gates_go_while_a_decision_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the limit of writes lets go at once, and each decision takes a second."""
    deciding, names = 0, [f"p{number:03}" for number in range(500)]

    def slowly(view: View) -> Decision:
        nonlocal deciding
        deciding += 1
        if deciding > 1:
            time.sleep(1.0)
        return decide(view)

    monkeypatch.setattr(controller, "decide", slowly)
    nodes = [f"n{number:02}" for number in range(11)]
    shows = {"nvidia.com/gpu-1gb": "48", "cpu": "1000", "pods": "500"}
    kube = Memory(
        nodes=[node_object(name, shows) for name in nodes],
        nodelayouts=[layout_object(a_layout(name, free={1: 48})) for name in nodes],
        pods=[pod_object(name, 1, "2026-01-01T00:00:00Z") for name in names],
    )
    async with leading(kube):
        gone = {(name, None) for name in names}
        await eventually(until(lambda: gone <= set(kube.seen)), "every gate is gone")
    assert deciding <= 4
