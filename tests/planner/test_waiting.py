"""Pods that wait long, or in vain, on the real control plane; the wall clock is put forward."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from mpslice.kube.api import NODES, PODS, Resource
from mpslice.kube.errors import Conflict
from mpslice.kube.session import Session
from planner.progress import machine
from planner.words.condition import AVAILABLE
from tests.planner.agents import LABEL, add_node
from tests.planner.conftest import events_of, planning, served
from tests.planner.pods import bound, delete_pod, is_gated, make, node_of, slice_pod, verdict
from tests.waiting import eventually

VOLUMES = Resource("v1", "persistentvolumes")
CLAIMS = Resource("v1", "persistentvolumeclaims", namespaced=True)


class Clock:
    """The wall clock, put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def created(kube: Session, name: str) -> datetime:
    pod = await kube.read(PODS, name, namespace="default")
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


async def shows(kube: Session, node: str, size: int, count: int) -> bool:
    """Whether the scheduler sees so many slices of the size on the node."""
    allocatable = (await kube.read(NODES, node))["status"]["allocatable"]
    return int(allocatable.get(f"nvidia.com/gpu-{size}gb", "0")) == count


async def test_gpu_is_kept_for_the_pod_that_waits_longest(kube: Session) -> None:
    await add_node(kube, "n1")
    clock = Clock()
    async with planning(kube, {"n1": [40]}, clock=clock):
        await served(kube, "n1")
        small = [f"small-{number}" for number in range(4)]
        await make(kube, *(slice_pod(name, 10) for name in small))
        for name in small:
            await bound(kube, name)
        await make(kube, slice_pod("big", 40))
        await eventually(lambda: verdict(kube, "big"), "the scheduler has refused it")
        clock.ahead = timedelta(minutes=6)
        await asyncio.sleep(1.0)  # creation times are whole seconds, and the next is to be younger
        await make(kube, slice_pod("younger", 10))
        told = await eventually(lambda: events_of(kube, "younger", "SliceUnavailable"), "it waits")
        assert "n1 GPU 0 is kept for default/big" in told[0]
        await asyncio.sleep(1.0)
        await make(kube, slice_pod("last", 10))
        await eventually(lambda: verdict(kube, "last"), "autoscalers see the last one")
        for left, name in zip((3, 2, 1, 0), small, strict=True):
            await delete_pod(kube, name)
            # A slice of its size comes free there, which the younger one guards for the big one.
            # It guards one slice at a time, so the next pod ends when this slice is withdrawn.
            await eventually(partial(shows, kube, "n1", 10, left), f"{left} slices are left")
            assert await is_gated(kube, "younger") or await node_of(kube, "big")
        assert await bound(kube, "big") == "n1"
        assert await node_of(kube, "younger") == ""
        assert await node_of(kube, "last") == ""


async def test_holder_of_a_reservation_is_served_first_among_pods_of_its_size(
    kube: Session,
) -> None:
    """Nobody is stuck, whether one slice comes free or room for two."""
    await add_node(kube, "n1")
    clock = Clock()
    async with planning(kube, {"n1": [80]}, clock=clock):
        await served(kube, "n1")
        for name, size in (("large", 40), ("first", 20), ("second", 20)):
            await make(kube, slice_pod(name, size))
            await bound(kube, name)
        for name in "abcd":
            await make(kube, slice_pod(name, 20))
            await eventually(partial(verdict, kube, name), f"{name} fits nowhere")
            await asyncio.sleep(1.0)  # creation times are whole seconds
        clock.ahead = timedelta(minutes=6)
        await make(kube, slice_pod("huge", 500))  # something happens

        async def is_nominated() -> bool:
            pod = await kube.read(PODS, "a", namespace="default")
            return bool(pod["status"].get("nominatedNodeName") == "n1")

        await eventually(is_nominated, "a slice that comes free is kept for the oldest")
        await delete_pod(kube, "first")
        assert await bound(kube, "a") == "n1"
        await delete_pod(kube, "large")
        assert {await bound(kube, "b"), await bound(kube, "c")} == {"n1"}
        assert await node_of(kube, "d") == ""
        await delete_pod(kube, "second")
        assert await bound(kube, "d") == "n1"


async def test_reservation_begins_by_itself_when_the_time_has_come(kube: Session) -> None:
    await add_node(kube, "n1")
    clock = Clock()
    async with planning(kube, {"n1": [40]}, clock=clock):
        await served(kube, "n1")
        await make(kube, slice_pod("small", 10))
        await bound(kube, "small")
        await make(kube, slice_pod("big", 40))
        age = datetime.now(UTC) - await created(kube, "big")
        # The decision on it has been made by then or is about to be; nothing else happens.
        clock.ahead = timedelta(minutes=5, seconds=-2) - age
        await make(kube, slice_pod("huge", 500))

        async def told() -> bool:
            texts = await events_of(kube, "big", "SliceUnavailable")
            return any(
                text.endswith("; waits for n1 GPU 0, which is kept for it") for text in texts
            )

        await eventually(told, "big is told which GPU is kept for it")


DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}


async def test_pod_is_planned_where_its_volume_is(kube: Session) -> None:
    """n1 is the tighter fit."""
    for name in ("n1", "n2"):
        await add_node(kube, name)
    await add_volume(kube, "data", "n2")
    async with planning(kube, {"n1": [10], "n2": [80]}) as agents:
        await served(kube, "n1", "n2")
        await make(kube, slice_pod("p", 10, volumes=[DATA]))
        assert await bound(kube, "p") == "n2"
        assert not await events_of(kube, "p", "FailedScheduling"), agents.writes


async def test_pod_that_the_scheduler_refuses_is_tried_elsewhere(
    kube: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label of its volume names a zone, which the planner does not look at."""
    monkeypatch.setattr(machine, "PATIENCE", timedelta(seconds=1))
    zone = "topology.kubernetes.io/zone"
    for name, where in (("n1", "a"), ("n2", "b")):
        await add_node(kube, name, labels={**LABEL, zone: where})
    await add_volume(kube, "zonal", "", {zone: "b"})
    async with planning(kube, {"n1": [10], "n2": [80]}):
        await served(kube, "n1", "n2")
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "zonal"}}
        await make(kube, slice_pod("p", 10, volumes=[volume]))
        assert await bound(kube, "p") == "n2"
        assert "volume zone" in " ".join(await events_of(kube, "p", "FailedScheduling"))


async def condition_of(kube: Session, name: str) -> tuple[str, str, str]:
    pod = await kube.read(PODS, name, namespace="default")
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == AVAILABLE:
            return condition["status"], condition["reason"], condition["message"]
    return "", "", ""


async def test_pod_whose_claim_does_not_exist_says_so_and_goes_once_it_does(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}) as agents:
        await served(kube, "n1")
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "missing"}}
        await make(kube, slice_pod("p", 80, volumes=[volume]))

        async def told() -> bool:
            return (await condition_of(kube, "p"))[1] == "Volume"

        await eventually(told, "the pod says why it waits")
        status, _, message = await condition_of(kube, "p")
        missing = "PersistentVolumeClaim default/missing does not exist"
        assert (status, message) == ("False", f"80gb: Volume ({missing})")
        assert 'persistentvolumeclaim "missing" not found' in await eventually(
            lambda: verdict(kube, "p"), "autoscalers and people hear it from the scheduler, too"
        )
        assert not agents.writes["n1"] > 1, "nothing is carved for it"
        await add_volume(kube, "missing", "n1")
        assert await bound(kube, "p") == "n1"

        async def said() -> bool:
            return (await condition_of(kube, "p"))[:2] == ("True", "Bound")

        await eventually(said, "the condition is true once it is bound")


async def add_volume(
    kube: Session, name: str, node: str, labels: dict[str, str] | None = None
) -> None:
    """A claim that is bound to a volume, which is on the node unless that is ""."""
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}}
    shared: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            **shared,
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/data"},
            **({"nodeAffinity": affinity} if node else {}),
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**shared, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }
    for resource, body, namespace in ((VOLUMES, volume, None), (CLAIMS, claim, "default")):
        try:
            await kube.create(resource, body, namespace=namespace)
        except Conflict:
            pass  # an earlier test made it

    async def is_bound() -> bool:
        found = await kube.read(CLAIMS, name, namespace="default")
        return bool((found.get("status") or {}).get("phase") == "Bound")

    await eventually(is_bound, "the claim is bound to its volume")
