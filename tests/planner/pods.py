"""Pods for tests on the real API server, and what became of them."""

import asyncio
from typing import Any

from mpslice.groups import GROUP_LABEL
from mpslice.kube.api import PODS
from mpslice.kube.session import Session
from planner.model.pods import GATE
from planner.state.parse import MIN_MEMBER_ANNOTATION
from tests.waiting import eventually


def slice_pod(name: str, size: int, *, gated: bool = True, **spec: Any) -> dict[str, Any]:
    resources = {"limits": {f"nvidia.com/gpu-{size}gb": "1"}}
    gates = {"schedulingGates": [{"name": GATE}]} if gated else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [{"name": "main", "image": "none", "resources": resources}],
            "automountServiceAccountToken": False,
            **gates,
            **spec,
        },
    }


def member(name: str, size: int, minimum: int, **spec: Any) -> dict[str, Any]:
    pod = slice_pod(name, size, **spec)
    pod["metadata"]["labels"] = {GROUP_LABEL: "g"}
    pod["metadata"]["annotations"] = {MIN_MEMBER_ANNOTATION: str(minimum)}
    return pod


async def make(kube: Session, *pods: dict[str, Any]) -> None:
    await asyncio.gather(*(kube.create(PODS, pod, namespace="default") for pod in pods))


async def node_of(kube: Session, name: str) -> str:
    pod = await kube.read(PODS, name, namespace="default")
    return str(pod["spec"].get("nodeName") or "")


async def bound(kube: Session, name: str) -> str:
    # The scheduler's own back-off is up to 10 seconds, and several may follow one another.
    return await eventually(lambda: node_of(kube, name), f"pod {name} is bound")


async def verdict(kube: Session, name: str) -> str:
    """What the scheduler said when it found no node for the pod; "" before it has."""
    pod = await kube.read(PODS, name, namespace="default")
    conditions = pod["status"].get("conditions") or ()
    said = [c["message"] for c in conditions if c.get("reason") == "Unschedulable"]
    return str(said[0]) if said else ""


async def delete_pod(kube: Session, name: str) -> None:
    await kube.delete(PODS, name, namespace="default", grace_seconds=0)


async def is_gated(kube: Session, name: str) -> bool:
    pod = await kube.read(PODS, name, namespace="default")
    return bool(pod["spec"].get("schedulingGates"))
