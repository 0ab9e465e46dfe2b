"""What the scheduling gate promises, with the stock scheduler and its preemption at work."""

import asyncio
from functools import partial

from mpslice.kube.api import NODE_LAYOUTS, PODS, Resource, list_all
from mpslice.kube.errors import Conflict
from mpslice.kube.session import Session
from tests.planner.agents import add_node
from tests.planner.conftest import GATHERING, events_of, planning, served
from tests.planner.pods import (
    bound,
    delete_pod,
    is_gated,
    make,
    member,
    node_of,
    slice_pod,
    verdict,
)
from tests.waiting import eventually

PRIORITIES = Resource("scheduling.k8s.io/v1", "priorityclasses")


async def add_priority(kube: Session, name: str, value: int) -> None:
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }
    try:
        await kube.create(PRIORITIES, body)
    except Conflict:
        pass  # an earlier test made it


async def going(kube: Session) -> list[str]:
    """Pods that somebody has begun to end."""
    pods = await list_all(kube, PODS)
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]]


async def is_free(kube: Session, node: str) -> bool:
    layout = await kube.read(NODE_LAYOUTS, node)
    return bool(layout["status"]["summary"]["usedGB"] == 0)


async def carved(kube: Session, node: str) -> int:
    """How many slices stand on the node."""
    layout = await kube.read(NODE_LAYOUTS, node)
    gpus = (layout.get("status") or {}).get("gpus") or ()
    return sum(len(gpu["slices"]) for gpu in gpus)


async def test_nobody_is_preempted_for_a_slice_that_another_node_has_free(kube: Session) -> None:
    """The flexible pod would be put on the emptier n2, and the urgent one could only go there."""
    await add_priority(kube, "urgent", 1000)
    await add_node(kube, "n1", cpu="8")
    await add_node(kube, "n2", cpu="64")
    pinned = {"kubernetes.io/hostname": "n2"}
    async with planning(kube, {"n1": [10], "n2": [10]}, settings=GATHERING):
        await served(kube, "n1", "n2")
        await make(kube, slice_pod("first", 10, nodeSelector={"kubernetes.io/hostname": "n1"}))
        await make(kube, slice_pod("second", 10, nodeSelector=pinned))
        await bound(kube, "first")
        await bound(kube, "second")
        await delete_pod(kube, "first")
        await delete_pod(kube, "second")
        for node in ("n1", "n2"):
            await eventually(partial(is_free, kube, node), f"the slice on {node} is free")
        await make(kube, slice_pod("opener", 500))  # what comes right after is planned together
        urgent = slice_pod("urgent", 10, nodeSelector=pinned, priorityClassName="urgent")
        await make(kube, slice_pod("flexible", 10), urgent)
        assert await bound(kube, "urgent") == "n2"
        assert await bound(kube, "flexible") == "n1"
        assert await going(kube) == []


async def test_group_is_let_go_only_when_all_its_slices_are_there(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    async with planning(kube, {"n1": [30], "n2": [30]}) as agents:
        await served(kube, "n1", "n2")
        agents.slow = {"n2"}
        await make(kube, *(member(f"m{i}", 30, 2) for i in range(2)))

        async def half_is_there() -> bool:
            return await carved(kube, "n1") > 0

        await eventually(half_is_there, "the slice on n1 stands")
        told = await eventually(lambda: events_of(kube, "m0", "SliceCarving"), "it is told so")
        assert told[0].startswith("30gb on n")
        assert [await is_gated(kube, f"m{i}") for i in range(2)] == [True, True]
        agents.hurry()
        assert {await bound(kube, f"m{i}") for i in range(2)} == {"n1", "n2"}


async def test_group_that_does_not_fit_stays_gated_and_takes_nothing(kube: Session) -> None:
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [40]}):
        await served(kube, "n1")
        await make(kube, *(member(f"m{i}", 30, 2) for i in range(2)))
        await eventually(lambda: events_of(kube, "m1", "SliceUnavailable"), "it is told why")
        assert [await is_gated(kube, f"m{i}") for i in range(2)] == [True, True]
        await make(kube, slice_pod("lone", 40))
        assert await bound(kube, "lone") == "n1"


async def test_slices_of_a_group_are_kept_from_a_pod_without_a_gate(kube: Session) -> None:
    """The rival is younger, fits nowhere, and the scheduler would bind it to the first slice."""
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [40]}) as agents:
        await served(kube, "n1")
        await make(kube, slice_pod("large", 40))
        await bound(kube, "large")
        await make(kube, *(member(f"m{i}", 20, 2) for i in range(2)))
        await eventually(lambda: events_of(kube, "m1", "SliceUnavailable"), "it is told why")
        await asyncio.sleep(1.0)  # creation times are whole seconds, and the rival is to be younger
        await make(kube, slice_pod("rival", 20))
        await eventually(lambda: verdict(kube, "rival"), "the scheduler has refused the rival")
        await delete_pod(kube, "large")
        for i in range(2):
            assert await bound(kube, f"m{i}") == "n1"
        assert await node_of(kube, "rival") == ""
        assert agents.writes["n1"] > 0


async def test_pods_are_bound_where_they_were_planned(kube: Session) -> None:
    """Pinned and flexible pods of one size at once: none takes a slice meant for another."""
    nodes = [f"n{i}" for i in range(4)]
    for number, name in enumerate(nodes):
        await add_node(kube, name, cpu=str(8 * (number + 1)))
    async with planning(kube, {name: [80] for name in nodes}):
        await served(kube, *nodes)
        pinned = [
            slice_pod(f"pinned-{name}", 10, nodeSelector={"kubernetes.io/hostname": name})
            for name in nodes
        ]
        await make(kube, *(slice_pod(f"flexible-{i}", 10) for i in range(4)), *pinned)
        for name in nodes:
            assert await bound(kube, f"pinned-{name}") == name
        for number in range(4):
            await bound(kube, f"flexible-{number}")
        # Had one taken another's slice, a further one would have been carved.
        assert sum([await carved(kube, name) for name in nodes]) == 8


async def test_pod_that_needs_much_cpu_is_not_kept_out_by_one_that_needs_little(
    kube: Session,
) -> None:
    """Of like slices on two nodes the scheduler would give the light pod that with the more CPU."""
    await add_node(kube, "n1", cpu="4")
    await add_node(kube, "n2", cpu="2")
    async with planning(kube, {"n1": [40], "n2": [40]}, settings=GATHERING):
        await served(kube, "n1", "n2")
        light, heavy = slice_pod("early-and-light", 10), slice_pod("late-and-heavy", 10)
        for pod, cpu in ((light, "500m"), (heavy, "3800m")):
            pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": cpu}
        await make(kube, slice_pod("opener", 500))  # what comes right after is planned together
        await make(kube, light, heavy)
        assert await bound(kube, "late-and-heavy") == "n1"
        assert await bound(kube, "early-and-light") == "n2"
