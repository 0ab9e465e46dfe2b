"""The controller against the real API server and the stock kube-scheduler."""

import asyncio

import pytest

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, PatchType
from mpslice.kube.errors import NotFound
from mpslice.kube.session import Session
from planner import controller
from planner.decide import decide
from planner.model.pods import GATE
from planner.view import Decision, View
from planner.writes.actions import MANAGED_LABEL
from tests.planner.agents import add_node, gpu_of
from tests.planner.conftest import LABEL, events_of, planning, served
from tests.planner.pods import bound, delete_pod, make, slice_pod
from tests.waiting import eventually


async def test_gated_pod_is_carved_for_ungated_and_bound(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80, 80]}):
        await kube.create(PODS, slice_pod("p", 10), namespace="default")
        assert await bound(kube, "p") == "n1"
        layout = await kube.read(NODE_LAYOUTS, "n1")
        assert {"uuid": gpu_of("n1", 0), "slices": {"10gb": 1}} in layout["spec"]["gpus"]
        owner = layout["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"]) == ("Node", "n1")


async def test_pod_without_our_gate_is_planned_all_the_same(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await kube.create(PODS, slice_pod("p", 10, gated=False), namespace="default")
        assert await bound(kube, "p") == "n1"


async def test_pod_with_anothers_gate_waits_for_it(kube: Session) -> None:
    await add_node(kube, "n1")
    gates = [{"name": GATE}, {"name": "example.com/quota"}]
    async with planning(kube, {"n1": [80]}) as agents:
        await kube.create(PODS, slice_pod("held", 10, schedulingGates=gates), namespace="default")
        await kube.create(PODS, slice_pod("other", 20), namespace="default")
        await bound(kube, "other")
        layout = await kube.read(NODE_LAYOUTS, "n1")
        assert layout["spec"]["gpus"][0]["slices"] == {"20gb": 1}, agents.writes
        ours = {"spec": {"schedulingGates": [{"name": GATE}]}}
        await kube.patch(PODS, "held", ours, type=PatchType.MERGE, namespace="default")
        assert await bound(kube, "held") == "n1"


async def test_room_of_an_ended_pod_goes_to_a_pod_of_another_size(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await kube.create(PODS, slice_pod("first", 50), namespace="default")
        await bound(kube, "first")
        await kube.create(PODS, slice_pod("second", 60), namespace="default")
        told = await eventually(
            lambda: events_of(kube, "second", "SliceUnavailable"), "the pod is told why it waits"
        )
        assert told == ["60gb: 0 of 1 nodes: 1 GPUMemory (largest hole 30gb on n1 GPU 0)"]
        await delete_pod(kube, "first")
        assert await bound(kube, "second") == "n1"


async def test_pod_that_no_node_can_hold_loses_its_gate_and_is_told_why(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        # The node's GPUs have to be known first, or the honest answer is NotReady.
        await kube.create(PODS, slice_pod("fits", 10), namespace="default")
        await bound(kube, "fits")
        await kube.create(PODS, slice_pod("huge", 500), namespace="default")

        async def ungated() -> bool:
            pod = await kube.read(PODS, "huge", namespace="default")
            return "schedulingGates" not in pod["spec"]

        await eventually(ungated, "the gate is gone")
        told = await eventually(
            lambda: events_of(kube, "huge", "SliceUnavailable"), "the Event is there"
        )
        assert told == ["500gb: 0 of 1 nodes: 1 GPUTooSmall (largest 80gb)"]


async def test_higher_priority_pod_preempts_nobody_while_memory_can_be_carved(
    kube: Session,
) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await kube.create(PODS, slice_pod("low", 10), namespace="default")
        await bound(kube, "low")
        urgent = slice_pod("urgent", 10, priorityClassName="system-node-critical")
        urgent["metadata"]["namespace"] = "kube-system"
        await kube.create(PODS, urgent, namespace="kube-system")

        async def urgent_node() -> str:
            pod = await kube.read(PODS, "urgent", namespace="kube-system")
            return str(pod["spec"].get("nodeName") or "")

        assert await eventually(urgent_node, "the urgent pod is bound") == "n1"
        low = await kube.read(PODS, "low", namespace="default")
        assert "deletionTimestamp" not in low["metadata"]
        layout = await kube.read(NODE_LAYOUTS, "n1")
        assert layout["spec"]["gpus"][0]["slices"] == {"10gb": 2}


async def test_burst_is_written_in_few_steps_and_all_bound(kube: Session) -> None:
    await add_node(kube, "n1")
    await add_node(kube, "n2")
    async with planning(kube, {"n1": [80] * 4, "n2": [80] * 4}) as agents:
        await asyncio.gather(
            *(kube.create(PODS, slice_pod(f"p{i}", 20), namespace="default") for i in range(32))
        )
        for i in range(32):
            await bound(kube, f"p{i}")
        # One layout each when handed over, and few for the burst: not one for each pod.
        carves = sum(agents.writes.values())
        assert carves < 32 + 8, agents.writes


async def test_unlabelled_node_is_left_alone_and_a_node_can_be_handed_back(kube: Session) -> None:
    await add_node(kube, "n1")
    await add_node(kube, "plain", labels={})
    async with planning(kube, {"n1": [80]}):
        await kube.create(PODS, slice_pod("p", 10), namespace="default")
        await bound(kube, "p")
        node = await kube.read(NODES, "n1")
        assert node["metadata"]["labels"][MANAGED_LABEL] == "true"
        plain = await kube.read(NODES, "plain")
        assert MANAGED_LABEL not in plain["metadata"]["labels"]
        await delete_pod(kube, "p")
        unlabel = {"metadata": {"labels": {LABEL[0]: None}}}
        await kube.patch(NODES, "n1", unlabel, type=PatchType.MERGE)

        async def released() -> bool:
            node = await kube.read(NODES, "n1")
            try:
                await kube.read(NODE_LAYOUTS, "n1")
            except NotFound:
                return MANAGED_LABEL not in node["metadata"]["labels"]
            return False

        await eventually(released, "the node is released")


async def test_planner_that_was_away_only_delays(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await kube.create(PODS, slice_pod("before", 10), namespace="default")
        await bound(kube, "before")
    await kube.create(PODS, slice_pod("meanwhile", 20), namespace="default")
    async with planning(kube, {"n1": [80]}):
        assert await bound(kube, "meanwhile") == "n1"


async def test_what_was_planned_is_remembered_while_its_slice_is_made(
    kube: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[View] = []

    def deciding(view: View) -> Decision:
        seen.append(view)
        return decide(view)

    monkeypatch.setattr(controller, "decide", deciding)
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}) as agents:
        await served(kube, "n1")
        agents.slow = {"n1"}
        await make(kube, slice_pod("p", 10))

        async def remembered() -> bool:
            return [each.node for each in seen[-1].planned.values()] == ["n1"]

        await eventually(remembered, "the next decision knows of the last")
        agents.hurry()
        await bound(kube, "p")
        await delete_pod(kube, "p")

        async def forgotten() -> bool:
            return not seen[-1].planned

        await eventually(forgotten, "who waits no more is forgotten")
