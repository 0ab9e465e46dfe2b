"""Preemption across sizes against the real API server and the stock kube-scheduler."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from mpslice.kube.api import NODE_LAYOUTS, PODS, Json, Kube, PatchType, Resource, list_all
from mpslice.kube.errors import ApiError, NotFound
from mpslice.kube.session import Session
from planner.state.preemptible import BUDGETS
from tests.planner.agents import add_node
from tests.planner.conftest import (
    SETTINGS,
    agents_at_work,
    events_of,
    planner_at_work,
)
from tests.planner.faults import Send, Tampered
from tests.planner.pods import bound, delete_pod, is_gated, make, node_of, slice_pod
from tests.waiting import eventually

PREEMPTING = replace(SETTINGS, preemption=True)
ENDS = "example.com/ends"
HIGH: dict[str, Any] = {"priority": 1000, "priorityClassName": "preempting"}


@asynccontextmanager
async def preempting(
    kube: Session, gpus: dict[str, list[int]], through: Kube | None = None
) -> AsyncIterator[None]:
    """A planner with `planner.preemption` and its agents."""
    for name in gpus:
        await add_node(kube, name)
    await _make_class(kube)
    async with agents_at_work(kube, gpus), planner_at_work(through or kube, settings=PREEMPTING):
        yield


async def _make_class(kube: Session) -> None:
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "preempting"},
        "value": 1000,
    }
    try:
        await kube.create(Resource("scheduling.k8s.io/v1", "priorityclasses"), body)
    except ApiError as error:
        if error.status != 409:
            raise


async def going(kube: Session, *names: str) -> set[str]:
    """Those of the pods that are being deleted, or are gone."""
    found = set()
    for name in names:
        try:
            pod = await kube.read(PODS, name, namespace="default")
        except NotFound:
            found.add(name)
        else:
            if "deletionTimestamp" in pod["metadata"]:
                found.add(name)
    return found


async def evicted(kube: Session, *names: str) -> None:
    async def all_go() -> bool:
        return await going(kube, *names) == set(names)

    await eventually(all_go, f"{', '.join(names)} are evicted", seconds=60)


async def running(kube: Session, *pods: dict[str, Any]) -> None:
    await make(kube, *pods)
    names = {pod["metadata"]["name"] for pod in pods}
    for name in names:
        await bound(kube, name)

    async def all_hold() -> bool:
        """Whether the agents show it: a pod that is not seen to hold its slice is not evicted."""
        layouts = await list_all(kube, NODE_LAYOUTS)
        gpus = [gpu for layout in layouts for gpu in layout["status"]["gpus"]]
        holders = {s.get("pod", "").partition("/")[2] for gpu in gpus for s in gpu["slices"]}
        return names <= holders

    await eventually(all_hold, f"{', '.join(sorted(names))} hold their slices")


@asynccontextmanager
async def slow_to_end(kube: Session, *names: str) -> AsyncIterator[None]:
    """Running pods that are there, though they are deleted, until `let_end` or the end of this."""
    pods = [slice_pod(name, 8) for name in names]
    for pod in pods:
        pod["metadata"]["finalizers"] = [ENDS]
    try:
        await running(kube, *pods)
        yield
    finally:
        await let_end(kube, *names)


async def let_end(kube: Session, *names: str) -> None:
    for name in names:
        with suppress(NotFound):
            body = {"metadata": {"finalizers": None}}
            await kube.patch(PODS, name, body, type=PatchType.MERGE, namespace="default")
            await delete_pod(kube, name)  # which the kubelet does once its containers have ended


async def test_pod_takes_the_place_of_two_smaller_ones(kube: Session) -> None:
    async with preempting(kube, {"n1": [16]}), slow_to_end(kube, "a", "b"):
        await make(kube, slice_pod("high", 10, **HIGH))
        await evicted(kube, "a", "b")
        assert await is_gated(kube, "high")
        for name in ("a", "b"):
            (told,) = await eventually(
                lambda name=name: events_of(kube, name, "Preempted"),  # type: ignore[misc]
                "the pod is told for whom it is evicted",
            )
            assert told == (
                "evicted from n1 for pod default/high, whose priority is 1000 (this pod's is 0): "
                "its 8gb makes room for 10gb"
            )
        await let_end(kube, "a", "b")
        assert await bound(kube, "high") == "n1"


async def test_planner_that_is_restarted_goes_on(kube: Session) -> None:
    await add_node(kube, "n1")
    await _make_class(kube)
    async with agents_at_work(kube, {"n1": [16]}):
        async with planner_at_work(kube, settings=PREEMPTING), AsyncExitStack() as stack:
            await stack.enter_async_context(slow_to_end(kube, "a", "b"))
            await make(kube, slice_pod("high", 10, **HIGH))
            await evicted(kube, "a", "b")
            there = stack.pop_all()
        async with there, planner_at_work(kube, settings=PREEMPTING):
            await let_end(kube, "a")
            await make(kube, slice_pod("next", 8))
            await let_end(kube, "b")
            assert await bound(kube, "high") == "n1"
            assert await node_of(kube, "next") == ""


class OneIsKept(Tampered):
    """Answers an eviction as for a budget that allows none."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(kube)
        self.kept = ""

    async def tamper(self, send: Send, resource: Resource, body: object) -> Json:
        if resource.plural.endswith("/eviction") and self.kept in ("", resource.plural):
            self.kept = resource.plural
            words = "Cannot evict pod as it would violate the pod's disruption budget."
            raise ApiError(words, status=429, reason="TooManyRequests")
        return await send()


async def test_another_pod_is_evicted_where_the_api_server_keeps_one(kube: Session) -> None:
    tampered = OneIsKept(kube)
    async with preempting(kube, {"n1": [8], "n2": [8]}, tampered):
        await running(kube, slice_pod("a", 8), slice_pod("b", 8))
        await make(kube, slice_pod("high", 5, **HIGH))

        async def one_goes() -> set[str]:
            return await going(kube, "a", "b")

        (gone,) = await eventually(one_goes, "one of the pods is evicted", seconds=60)
        assert tampered.kept == f"pods/{'b' if gone == 'a' else 'a'}/eviction"
        await let_end(kube, gone)
        assert await bound(kube, "high")


async def test_disruption_budget_keeps_pods(kube: Session) -> None:
    """The budget's status is written here, as the disruption controller does."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "kept", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "kept"}}},
    }
    kept = slice_pod("kept", 6)  # without the budget it would be evicted: it is smaller
    kept["metadata"]["labels"] = {"app": "kept"}
    await kube.create(BUDGETS, budget, namespace="default")
    try:
        async with preempting(kube, {"n1": [8], "n2": [6]}):
            await running(kube, slice_pod("old", 8))
            await running(kube, kept)
            await make(kube, slice_pod("high", 5, **HIGH))
            await evicted(kube, "old")
            assert await going(kube, "kept") == set()
            await let_end(kube, "old")
            await bound(kube, "high")
    finally:
        await kube.delete(BUDGETS, "kept", namespace="default")
