"""Pods that wait long, or in vain, on the real control plane; the wall clock is put forward."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from mpslice.kube.api import PODS, Resource
from mpslice.kube.errors import Conflict
from mpslice.kube.session import Session
from planner.gate.tries import Tries
from tests.planner.agents import add_node
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
        assert "Reserved" in told[0]
        for name in small:
            await delete_pod(kube, name)
            # A free slice of its size stands there, which a pod without a gate would get.
            assert await is_gated(kube, "younger") or await node_of(kube, "big")
        assert await bound(kube, "big") == "n1"
        assert await node_of(kube, "younger") == ""


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


async def test_pod_that_the_scheduler_refuses_twice_is_tried_elsewhere(kube: Session) -> None:
    """Its volume is on n2, which the planner does not look at; n1 is the tighter fit."""
    for name in ("n1", "n2"):
        await add_node(kube, name)
    await add_volume(kube, "data", "n2")
    async with planning(kube, {"n1": [10], "n2": [80]}, tries=Tries(patience=0.3, silence=5.0)):
        await served(kube, "n1", "n2")
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
        await make(kube, slice_pod("p", 10, volumes=[volume]))
        assert await bound(kube, "p") == "n2"
        assert "PersistentVolume's node affinity" in await verdict_of_the_past(kube, "p")


async def verdict_of_the_past(kube: Session, name: str) -> str:
    return " ".join(await events_of(kube, name, "FailedScheduling"))


async def add_volume(kube: Session, name: str, node: str) -> None:
    """A claim that is bound to a volume on the node."""
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    shared: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **shared,
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
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
