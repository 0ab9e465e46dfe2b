"""A planner that ends at any point, or is cut off: pods wait a little longer, and that is all."""

import asyncio
import logging
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hack.cluster import network
from hack.cluster.api import healthy
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.api import LEASES, NODE_LAYOUTS, Json, Resource, list_all
from mpslice.kube.errors import NotFound
from mpslice.kube.session import Session
from tests.planner.agents import add_node
from tests.planner.conftest import agents_at_work, planner_at_work, served
from tests.planner.faults import Crash, Line, Send, Tampered
from tests.planner.pods import bound, is_gated, make, member, slice_pod
from tests.waiting import DEADLINE, eventually

log = logging.getLogger(__name__)

GPUS = {"n1": [40, 40], "n2": [40, 40]}
PODS_AT_ONCE = {
    "group-0": member("group-0", 30, 3),
    "group-1": member("group-1", 30, 3),
    "group-2": member("group-2", 20, 3),
    "lone-0": slice_pod("lone-0", 10),
    "lone-1": slice_pod("lone-1", 10),
}


async def all_are_bound(kube: Session) -> None:
    """Every pod is, and holds the one slice that it asked for; nothing else was carved."""
    for name in PODS_AT_ONCE:
        await bound(kube, name)
    wanted = Counter({"30gb": 2, "20gb": 1, "10gb": 2})

    async def as_wanted() -> bool:
        slices: Counter[str] = Counter()
        for layout in await list_all(kube, NODE_LAYOUTS):
            gpus = (layout.get("status") or {}).get("gpus") or ()
            slices.update(s["size"] for gpu in gpus for s in gpu["slices"] if s["state"] == "Used")
        return slices == wanted

    await eventually(as_wanted, "every pod holds its slice and no other is used")


@pytest.mark.parametrize("number", range(1, 12))
async def test_planner_that_ends_at_any_write_loses_nothing(kube: Session, number: int) -> None:
    """Its eleven writes: two layouts and two labels at the hand-over, two specs, and five gates."""
    for name in GPUS:
        await add_node(kube, name)
    async with agents_at_work(kube, GPUS):
        crash = Crash(kube, number)
        async with planner_at_work(crash):
            if number > 4:
                await served(kube, *GPUS)
            await make(kube, *PODS_AT_ONCE.values())
            async with asyncio.timeout(DEADLINE):
                await crash.ended.wait()
        async with planner_at_work(kube):
            await all_are_bound(kube)


class SlowLayout(Tampered):
    """The first layout with slices is answered only once it is told to."""

    def __init__(self, kube: Session) -> None:
        super().__init__(kube)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def tamper(self, send: Send, resource: Resource, body: object) -> Json:
        if resource is NODE_LAYOUTS and "20gb" in str(body) and not self.begun.is_set():
            self.begun.set()
            await self.go_on.wait()
        return await send()


async def test_slow_write_delays_no_other_node_and_confuses_no_plan(kube: Session) -> None:
    for name in ("n1", "n2"):
        await add_node(kube, name)
    slow = SlowLayout(kube)
    async with agents_at_work(kube, {"n1": [20], "n2": [20]}), planner_at_work(slow):
        await served(kube, "n1", "n2")
        await make(kube, slice_pod("first", 20))
        await slow.begun.wait()
        await make(kube, slice_pod("second", 20))
        assert await bound(kube, "second") == "n2"
        assert await is_gated(kube, "first")
        slow.go_on.set()
        assert await bound(kube, "first") == "n1"


@pytest.mark.parametrize("fault", [Line.cut, Line.go_dead], ids=["cut", "dead"])
async def test_planner_that_loses_the_api_server_goes_on_when_it_is_back(
    kube: Session, planner_plane: ControlPlane, tmp_path: Path, fault: Callable[[Line], None]
) -> None:
    for name in GPUS:
        await add_node(kube, name)
    line = Line(planner_plane.url)
    async with (
        agents_at_work(kube, GPUS),
        line.laid(planner_plane.kubeconfig, tmp_path) as kubeconfig,
        await Session.connect("test", str(kubeconfig)) as through,
        planner_at_work(through),
    ):
        await served(kube, *GPUS)
        names = list(PODS_AT_ONCE)
        await make(kube, *(PODS_AT_ONCE[name] for name in names[:3]))
        fault(line)
        await make(kube, *(PODS_AT_ONCE[name] for name in names[3:]))
        await asyncio.sleep(1.0)  # an absence that is long enough for every kind of request
        line.mend()
        await all_are_bound(kube)


class Process:
    """mpslice-planner as a process of its own."""

    def __init__(self, kubeconfig: Path, *flags: str) -> None:
        executable = Path(sys.executable).parent / "mpslice-planner"
        (port,) = network.free_ports(1)
        self._health = f"http://127.0.0.1:{port}/readyz"
        command = [str(executable), f"--kubeconfig={kubeconfig}", f"--ops-listen=127.0.0.1:{port}"]
        self._running = subprocess.Popen(
            [*command, "--namespace=default", "--log-level=warning", *flags]
        )

    async def is_ready(self) -> bool:
        """Whether it knows the cluster."""
        return await asyncio.to_thread(healthy, self._health)

    def kill(self) -> None:
        self._running.send_signal(signal.SIGKILL)
        self._running.wait(DEADLINE)


@contextmanager
def process(kubeconfig: Path, *flags: str) -> Iterator[Process]:
    running = Process(kubeconfig, *flags)
    try:
        yield running
    finally:
        running.kill()


async def test_planner_killed_at_random_points_loses_nothing(
    kube: Session, planner_plane: ControlPlane
) -> None:
    seed = random.randrange(10**6)
    log.warning("the moments are those of seed %d", seed)
    moments = random.Random(seed)
    for name in GPUS:
        await add_node(kube, name)
    async with agents_at_work(kube, GPUS):
        for pod in PODS_AT_ONCE.values():
            with process(planner_plane.kubeconfig, "--leader-elect=false"):
                await make(kube, pod)
                # From before it has read anything until all it had to do is done.
                await asyncio.sleep(moments.uniform(0.3, 1.5))
        with process(planner_plane.kubeconfig, "--leader-elect=false"):
            await all_are_bound(kube)


async def holder(kube: Session) -> str:
    try:
        lease = await kube.read(LEASES, "mpslice-planner", namespace="default")
    except NotFound:
        return ""
    return str(lease["spec"].get("holderIdentity") or "")


async def test_leader_that_is_killed_is_replaced(
    kube: Session, planner_plane: ControlPlane
) -> None:
    await add_node(kube, "n1")
    async with agents_at_work(kube, {"n1": [80]}):
        with process(planner_plane.kubeconfig) as leader:
            first = await eventually(lambda: holder(kube), "somebody leads")
            await make(kube, slice_pod("before", 10))
            await bound(kube, "before")
            with process(planner_plane.kubeconfig) as other:
                await eventually(other.is_ready, "another replica stands by")
                leader.kill()
                killed = time.monotonic()
                await make(kube, slice_pod("after", 10))
                await bound(kube, "after")
                log.warning("%.2f", time.monotonic() - killed)
                assert await holder(kube) != first
