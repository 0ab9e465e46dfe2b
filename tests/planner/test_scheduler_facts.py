"""What the gate's promises rest on, shown on the stock scheduler with the node's status by hand.

kube-scheduler counts a pod nominated to a node as if it stood there when it looks for room for pods
of the same or a lower priority (framework/runtime/framework.go, addGENominatedPods), gated or not.
"""

from typing import Any

from mpslice.kube.api import NODES, PODS, PatchType
from mpslice.kube.session import Session
from mpslice.slices import SliceSize, resource_name
from tests.planner.agents import add_node
from tests.planner.pods import bound, node_of, slice_pod, verdict
from tests.waiting import eventually


async def show_slices(kube: Session, node: str, count: int, size: int = 10) -> None:
    quantities = {resource_name(SliceSize(size)): str(count)}
    body = {"status": {"capacity": quantities, "allocatable": quantities}}
    await kube.patch(NODES, node, body, type=PatchType.MERGE, subresource="status")


async def nominate(kube: Session, pod: str, node: str) -> None:
    body = {"status": {"nominatedNodeName": node}}
    await kube.patch(
        PODS, pod, body, type=PatchType.MERGE, namespace="default", subresource="status"
    )


async def ungate(kube: Session, pod: str) -> None:
    body: dict[str, Any] = {"spec": {"schedulingGates": None}}
    await kube.patch(PODS, pod, body, type=PatchType.MERGE, namespace="default")


async def test_ungated_pod_takes_a_slice_that_was_meant_for_a_gated_one(kube: Session) -> None:
    await add_node(kube, "n1")
    await kube.create(PODS, slice_pod("rival", 10, gated=False), namespace="default")
    await kube.create(PODS, slice_pod("meant", 10), namespace="default")
    await eventually(lambda: verdict(kube, "rival"), "the rival is unschedulable")
    await show_slices(kube, "n1", 1)
    assert await bound(kube, "rival") == "n1"


async def test_slice_waits_for_a_gated_pod_that_is_nominated(kube: Session) -> None:
    await add_node(kube, "n1")
    await kube.create(PODS, slice_pod("rival", 10, gated=False), namespace="default")
    await kube.create(PODS, slice_pod("meant", 10), namespace="default")
    await eventually(lambda: verdict(kube, "rival"), "the rival is unschedulable")
    await nominate(kube, "meant", "n1")
    await show_slices(kube, "n1", 1)
    # The scheduler has looked at the slice, once for the rival, when it has placed this one.
    await kube.create(PODS, slice_pod("later", 10, gated=False), namespace="default")
    await eventually(lambda: verdict(kube, "later"), "a later pod finds no room either")
    assert await node_of(kube, "rival") == ""
    await ungate(kube, "meant")
    assert await bound(kube, "meant") == "n1"
    assert await node_of(kube, "rival") == ""


async def test_nominated_pod_goes_where_it_is_nominated(kube: Session) -> None:
    await add_node(kube, "n1", cpu="4")
    await add_node(kube, "n2", cpu="64")
    for node in ("n1", "n2"):
        await show_slices(kube, node, 2)
        # The scheduler has seen the slices when it has given one away.
        there = slice_pod(f"on-{node}", 10, gated=False)
        there["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
        await kube.create(PODS, there, namespace="default")
        await bound(kube, f"on-{node}")
    # Alone, the scheduler would spread to the emptier node.
    await kube.create(PODS, slice_pod("meant", 10), namespace="default")
    await nominate(kube, "meant", "n1")
    await ungate(kube, "meant")
    assert await bound(kube, "meant") == "n1"
