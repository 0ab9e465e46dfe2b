"""The traps of the kubelet's device manager (kubelet/cm/devicemanager), each on the real one.

They lose pods, crash the kubelet, or give two pods one slice when a plugin does the wrong thing.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from mpslice.kube.api import NODES, PODS, Json
from mpslice.kube.reflector import Change, Reflector
from tests.freezing import freeze, thaw
from tests.nodeagent.conftest import device, resource
from tests.nodeagent.real.agent_process import pids_in_slice
from tests.nodeagent.real.cluster import DEAF, Cluster, container_of, plain_container
from tests.waiting import eventually

pytestmark = [pytest.mark.versions, pytest.mark.usefixtures("machine_without_node")]

TURNS = 20
RACERS = 10  # pods in each turn
SPREAD = 0.3  # seconds over which a turn begins
LATE_TURNS = 12
LATE = 0.05  # seconds that a scheduler is late, at most
LOST = 10  # the turn in which the pods come too late, however slow the machine is


async def test_withdrawals_racing_allocates_lose_no_pod_and_no_kubelet(cluster: Cluster) -> None:
    """A list without an id that is just being allocated panics the kubelet; and a pod that was
    bound to a slice that turns Unhealthy before its admission is Failed for good."""
    dice = random.Random(1)
    kubelet = cluster.node.kubelet_pid
    kept = withdrawn = 0
    for turn in range(TURNS):
        await cluster.apply({"5gb": RACERS // 2}, {"5gb": RACERS // 2})
        names = [f"racer-{turn}-{number}" for number in range(RACERS)]
        bind = cluster.node.name if turn % 2 else ""

        async def race(name: str, bind: str, delay: float) -> None:
            await asyncio.sleep(delay)
            await cluster.create(name, 5, stuck=True, bind=bind)

        delays = [dice.uniform(0, SPREAD) for _ in names]
        if turn == LOST:
            generation = await cluster.lay_out({"40gb": 2}, {"40gb": 2})
            await cluster.acknowledged(generation)
        async with asyncio.TaskGroup() as racing:
            for name, delay in zip(names, delays, strict=True):
                racing.create_task(race(name, bind, delay))
            await asyncio.sleep(dice.uniform(0, SPREAD))
            generation = await cluster.lay_out({"40gb": 2}, {"40gb": 2})
        status = await cluster.acknowledged(generation)
        held = await _holders_agree(cluster, names)
        if not bind:
            assert await cluster.failures() == []
        standing = [entry["id"] for found in status["gpus"] for entry in found["slices"]]
        kept += len([id_ for id_ in standing if "::5::" in id_])
        withdrawn += RACERS - len(held)
        await cluster.delete(*names, grace=0)
        assert cluster.node.kubelet_pid == kubelet
    assert cluster.node.kubelet.running
    assert kept > 0
    assert withdrawn > 0


async def _holders_agree(cluster: Cluster, names: list[str]) -> dict[str, str]:
    """Waits until kubelet and layout name the same holders; each has its slice in both."""

    async def agreed() -> dict[str, str] | None:
        view, slices = await cluster.kubelet_view(), await cluster.slices()
        told = {id_: pod.partition("/")[2] for id_, pod in slices.items() if pod}
        pods = {pod["metadata"]["name"]: pod for pod in await cluster.pods()}
        decided = all(
            pods[name]["status"].get("startTime") or not pods[name]["spec"].get("nodeName")
            for name in names
        )
        same = told == view.listed and view.healthy == frozenset(slices)
        return {"": "", **told} if decided and same else None

    held = await eventually(agreed, "kubelet and layout agree", every=0.03)
    assert held is not None
    return {id_: pod for id_, pod in held.items() if id_}


async def test_kubelet_restart_loses_no_pod(cluster: Cluster) -> None:
    """All pods are admitted again; those of which no container runs are Failed for good unless the
    plugin has registered by then: it has milliseconds."""
    await cluster.apply({"10gb": 6, "5gb": 1}, {})
    once = "exit 0"
    await cluster.run("train", 10)
    await cluster.run("prepared", 10, kind="initContainers", command=once, containers=[_idle()])
    await cluster.run("crashing", 10, restartPolicy="Always")
    await cluster.create("half", 10, command=once, others=[_idle()], restartPolicy="OnFailure")
    await cluster.run("other-size", 5)

    async def half_done() -> bool:
        statuses = (await cluster.pod("half"))["status"].get("containerStatuses") or []
        return {"running", "terminated"} == {key for entry in statuses for key in entry["state"]}

    await eventually(half_done, "one of two containers has completed")
    await cluster.kill_container("crashing")
    processes = await cluster.processes("train")
    await asyncio.to_thread(cluster.node.kubelet.stop)
    await cluster.create("bound-meanwhile", 10, bind=cluster.node.name)
    await asyncio.to_thread(cluster.node.kubelet.start)
    await cluster.run("after", 10)
    names = {"train", "prepared", "crashing", "other-size", "bound-meanwhile"}
    for name in names:
        await cluster.ready(name)
    pods = {pod["metadata"]["name"]: pod for pod in await cluster.pods()}
    assert {name: pod["status"]["phase"] for name, pod in pods.items()} == dict.fromkeys(
        {*names, "half", "after"}, "Running"
    )
    assert await cluster.processes("train") == processes
    assert container_of(pods["train"])["restartCount"] == 0

    async def all_known() -> bool:
        held = sorted(pod for pod in (await cluster.slices()).values() if pod)
        return held == sorted(f"default/{name}" for name in pods)

    await eventually(all_known, "everybody's slice is known")


def _idle() -> Json:
    return plain_container()


async def test_no_slice_is_shown_that_the_kubelet_does_not_know(cluster: Cluster) -> None:
    """A pod that is bound to one runs without any device; one with the key gone, too."""
    early: list[str] = []
    seen: set[str] = set()
    await cluster.apply({"10gb": 1}, {})

    def amounts(node: Json) -> dict[str, int]:
        allocatable = node["status"]["allocatable"]
        return {k: int(v) for k, v in allocatable.items() if k.startswith("nvidia.com/gpu-")}

    queue: asyncio.Queue[dict[str, int]] = asyncio.Queue()

    def changed(change: Change[dict[str, int]]) -> None:
        if change.new is not None:
            queue.put_nowait(change.new)

    async def compare() -> None:
        while True:
            shown = await queue.get()
            known = (await cluster.kubelet_view()).healthy
            for name, count in shown.items():
                size = name.removeprefix("nvidia.com/gpu-").removesuffix("gb")
                have = sum(1 for id_ in known if f"::{size}::" in id_)
                if count > have and queue.empty():
                    early.append(f"{name}: {count} shown, {have} known")
            early.extend(f"{name} is gone" for name in seen - shown.keys())
            seen.update(shown)

    nodes = Reflector(
        cluster.kube, NODES, amounts, changed, field_selector=f"metadata.name={cluster.node.name}"
    )
    watching = [asyncio.create_task(nodes.run()), asyncio.create_task(compare())]
    for layout in ({"10gb": 4}, {"10gb": 4, "6gb": 3}, {"7gb": 3}, {}, {"8gb": 8}, {"10gb": 1}):
        await cluster.apply(layout, {})
    for task in watching:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*watching)
    assert early == []
    assert {resource(size) for size in (6, 7, 8, 10)} <= seen


async def test_slice_of_a_force_deleted_pod_is_not_given_again_while_its_process_lives(
    cluster: Cluster,
) -> None:
    """The kubelet gives its devices away at once, two seconds before it kills."""
    await cluster.apply({"10gb": 1}, {})
    uid = (await cluster.run("stubborn", 10, command=DEAF))["metadata"]["uid"]
    await cluster.holder_is("stubborn")
    assert await cluster.processes("stubborn")
    await cluster.delete("stubborn", grace=0)
    assert pids_in_slice(uid)
    second = (await cluster.create("second", 10))["metadata"]["uid"]
    await cluster.apply({"80gb": 1}, {})
    assert device(1, 10, 0) in await cluster.slices()
    together = 0
    deadline = time.monotonic() + 20
    while not pids_in_slice(second) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        together += bool(pids_in_slice(uid)) and bool(pids_in_slice(second))
    assert together == 0
    await cluster.ready("second")
    assert await cluster.holder_is("second") == device(1, 10, 0)


async def test_such_a_slice_is_not_withdrawn_either(cluster: Cluster) -> None:
    await cluster.apply({"10gb": 1}, {})
    uid = (await cluster.run("stubborn", 10, command=DEAF))["metadata"]["uid"]
    await cluster.holder_is("stubborn")
    await cluster.delete("stubborn", grace=0)
    await cluster.apply({"80gb": 1}, {})
    assert pids_in_slice(uid)
    assert await cluster.slices() == {device(1, 10, 0): "default/stubborn"}
    assert (await cluster.condition("Applied"))["reason"] == "SliceInUse"

    async def carved() -> bool:
        return await cluster.slices() == {device(1, 80, 0): ""}

    await eventually(carved, "carved once the process is gone")
    assert not pids_in_slice(uid)


async def test_container_that_restarts_waits_for_its_daemon_and_keeps_its_slice(
    cluster: Cluster,
) -> None:
    """Its environment is frozen, and only PreStartContainer runs again."""
    await cluster.apply({"10gb": 2}, {})
    uid = (await cluster.run("train", 10))["metadata"]["uid"]
    held = await cluster.holder_is("train")
    cluster.agent.write_gpus({"healthy": False}, {})

    async def unhealthy() -> bool:
        return not (await cluster.status())["gpus"][0]["healthy"]

    await eventually(unhealthy, "its GPU and the simulated daemon are away")
    await cluster.kill_container("train")

    async def ended() -> bool:
        return not pids_in_slice(uid)

    await eventually(ended, "the container has ended")
    for _ in range(15):  # it would start within 0.2 s
        await asyncio.sleep(0.1)
        assert not pids_in_slice(uid)
    cluster.agent.write_gpus({}, {})
    await cluster.restarted("train")
    assert await cluster.holder_is("train") == held


async def test_init_container_and_container_share_one_slice(cluster: Cluster) -> None:
    """The kubelet allocates the same id again for the next container of a pod."""
    await cluster.apply({"10gb": 2}, {})
    again = {**plain_container("main"), "resources": {"limits": {resource(10): "1"}}}
    await cluster.run("reuses", 10, kind="initContainers", command="exit 0", containers=[again])
    held = await cluster.holder_is("reuses")
    assert sorted((await cluster.slices()).values()) == ["", "default/reuses"]
    await cluster.apply({}, {})
    assert await cluster.slices() == {held: "default/reuses"}


async def test_init_containers_slice_stays_used_while_the_pod_lives(cluster: Cluster) -> None:
    """PodResources leaves it out."""
    await cluster.apply({"10gb": 1}, {})
    await cluster.run("prepared", 10, kind="initContainers", command="exit 0", containers=[_idle()])
    held = await cluster.holder_is("prepared")
    assert held not in (await cluster.kubelet_view()).listed
    await cluster.apply({"80gb": 1}, {})
    assert await cluster.slices() == {held: "default/prepared"}
    cluster.agent.end()
    cluster.agent.start()
    await cluster.apply({"70gb": 1}, {})
    assert (await cluster.slices())[held] == "default/prepared"


async def test_end_of_a_dead_agents_streams_does_not_cut_off_the_next(cluster: Cluster) -> None:
    """The kubelet disconnects whichever client is current when any stream ends."""
    await cluster.apply({"10gb": 1, "20gb": 1}, {"30gb": 1})

    async def served() -> bool:
        return bool(set(cluster.node.device_plugin_dir.glob("mpslice-*.sock")) - before)

    for _ in range(5):
        before = set(cluster.node.device_plugin_dir.glob("mpslice-*.sock"))
        cluster.agent.end()
        cluster.agent.start()
        await eventually(served, "the new one serves")
    await cluster.apply({"10gb": 2, "20gb": 1}, {"30gb": 1})

    async def all_known() -> bool:
        return (await cluster.kubelet_view()).healthy == frozenset(await cluster.slices())

    await eventually(all_known, "the kubelet knows every slice")
    await cluster.run("train", 10)


async def test_pod_that_the_kubelet_refuses_is_told_and_its_slice_is_free(
    cluster: Cluster,
) -> None:
    """So it is with one that is bound past the scheduler to a size that is not there."""
    await cluster.apply({"10gb": 1}, {})
    await cluster.create("holds", 10, stuck=True)
    await cluster.holder_is("holds")
    await cluster.create("late", 10, bind=cluster.node.name)
    assert await cluster.verdict("late") == "Failed"

    async def told() -> list[str]:
        events = await cluster.events("late")
        return [event["message"] for event in events if event["reason"] == "SliceRefused"]

    (message,) = await eventually(told, "the Event")
    assert "has to be created anew" in message
    await cluster.delete("holds")

    async def free() -> bool:
        return await cluster.slices() == {device(1, 10, 0): ""}

    await eventually(free, "failed pods hold nothing")


async def test_no_pod_is_lost_to_a_scheduler_that_is_late_to_see_a_withdrawal(
    cluster: Cluster,
) -> None:
    """It tries pods again that it said Unschedulable of as soon as it sees a slice, and binds them
    to one that the node's status shows no more."""
    dice = random.Random(1)
    scheduler = next(p for p in cluster.plane.programs if p.name == "kube-scheduler").pid
    for turn in range(LATE_TURNS):
        await cluster.apply({}, {})
        await cluster.create(f"waits-{turn}", 40, stuck=True)
        await cluster.unschedulable(f"waits-{turn}")
        freeze(scheduler)
        try:
            await cluster.apply({"40gb": 1}, {})
            await cluster.offers({resource(40): 1})
            generation = await cluster.lay_out({"20gb": 4}, {})
            await eventually(closed(cluster), "the node's status shows no 40gb", every=0.001)
            await asyncio.sleep(dice.uniform(0.0, LATE))
        finally:
            thaw(scheduler)
        await cluster.acknowledged(generation)
        assert await cluster.failures() == []
        await cluster.delete(f"waits-{turn}", grace=0)
        await eventually(nobody_holds(cluster), "its slice is free")


def nobody_holds(cluster: Cluster) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return not any((await cluster.slices()).values())

    return probe


def closed(cluster: Cluster) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return resource(40) not in await cluster.allocatable()

    return probe


async def test_pod_is_bound_as_soon_as_its_slice_is_carved(cluster: Cluster) -> None:
    """The scheduler tries again when allocatable grows, long before its backoff is over."""
    await cluster.apply({}, {})
    await cluster.create("first", 11, stuck=True)
    await cluster.unschedulable("first")
    await cluster.apply({"11gb": 1}, {})

    async def bound() -> bool:
        pod = await cluster.kube.read(PODS, "first", namespace="default")
        return bool(pod["spec"].get("nodeName"))

    await eventually(bound, "bound", seconds=5)
