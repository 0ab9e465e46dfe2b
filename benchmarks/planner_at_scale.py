"""`python -m benchmarks.planner_at_scale`: what 1,000 nodes and 10,000 pods cost the planner.

A real etcd, kube-apiserver and kube-scheduler, and the real planner; nodes, their layouts and pods
are made through the API, and what agents and kubelets would write is written here. Measured of the
planner's process alone: from its start to its first plan, its memory, and its CPU at rest and while
pods come, run and end. CPU and memory are its own, however busy the machine is.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.cluster.fleet import GPU_GB, Fleet, fleet, pod_of
from benchmarks.cluster.load import Life, lives
from benchmarks.cluster.player import Player
from benchmarks.cluster.stand import control_plane
from benchmarks.cluster.surroundings import surroundings
from benchmarks.cluster.usage import usage_of
from benchmarks.packing_instances import data_folder
from hack.cluster import parts as cluster_parts
from hack.cluster import programs
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.processes import Program
from hack.cluster.progress import Say, step, to_stderr
from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, PatchType, Resource
from mpslice.kube.errors import NotFound
from mpslice.kube.session import Session

Figures = dict[str, Any]
T = TypeVar("T")

_NAMESPACE: Final = "fleet"
_SERVICE_ACCOUNTS: Final = Resource("v1", "serviceaccounts", namespaced=True)
_AT_ONCE: Final = 48
_EVENTS: Final = 6.0
"""Of a pod's life: made, its gate gone, bound, running, ended, deleted."""

_PATIENCE: Final = 300.0


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
    """All of them, some at a time."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))


async def _make(kube: Session, made: Fleet, player: Player) -> None:
    """The fleet's objects; the webhook, which does not run, leaves their namespace alone."""
    labels = {"mpslice.io/admission": "ignore"}
    body = {"metadata": {"name": made.namespace, "labels": labels}}
    await kube.create(NAMESPACES, body)
    await _can_hold_pods(kube, made.namespace)

    async def node(name: str) -> None:
        node, layout = made.nodes[name].objects()
        created = await kube.create(NODES, node)
        # Admission taints what is new, and the controllers take long to see that it is ready.
        await kube.patch(NODES, name, {"spec": {"taints": None}}, type=PatchType.MERGE)
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": created["metadata"]["uid"],
        }
        layout["metadata"]["ownerReferences"] = [owner]
        await kube.create(NODE_LAYOUTS, layout)
        await player.report(name)

    async def pod(body: dict[str, Any]) -> None:
        await kube.create(PODS, body, namespace=made.namespace)

    await _each(made.nodes, node)
    await _each(made.pods(), pod)


async def _can_hold_pods(kube: Session, namespace: str) -> None:
    """Until the controllers have made the service account that pods of the namespace get."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            with suppress(NotFound):
                await kube.read(_SERVICE_ACCOUNTS, "default", namespace=namespace)
                return
            await asyncio.sleep(0.05)


def _plans(ops: str) -> tuple[float, float]:
    """How many decisions the planner has made, and the seconds that they took. Raises OSError while
    it does not answer."""
    with urllib.request.urlopen(f"{ops}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = dict(line.rpartition(" ")[::2] for line in lines if line.startswith("mpslice_plan_s"))
    return float(found["mpslice_plan_seconds_count"]), float(found["mpslice_plan_seconds_sum"])


async def _decided(ops: str) -> tuple[float, float]:
    """The same, once it answers: it is busy at times."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            with suppress(OSError):
                return await asyncio.to_thread(_plans, ops)
            await asyncio.sleep(0.05)


async def _first_plan(planner: Program, player: Player) -> Figures:
    """Starts the planner; until it has written what its first plan says, and the CPU that it used,
    which other work on the machine changes less."""
    began = time.monotonic()
    planner.start(wait=False)
    async with asyncio.timeout(_PATIENCE):
        await player.touched.wait()
    return {
        "start_to_first_plan_s": round(time.monotonic() - began, 2),
        "start_to_first_plan_cpu_s": round(usage_of(planner.pid).cpu, 2),
    }


async def _quiet(planner: Program) -> None:
    """Until the planner has little to do."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            before = usage_of(planner.pid).cpu
            await asyncio.sleep(3)
            if usage_of(planner.pid).cpu - before < 0.15:
                return


async def _cost(planner: Program, ops: str, player: Player, work: Awaitable[None]) -> Figures:
    """What the planner uses while the work is done."""
    count, took = await _decided(ops)
    before, began, events = usage_of(planner.pid), time.monotonic(), player.events
    await work
    seconds, after = time.monotonic() - began, usage_of(planner.pid)
    events = player.events - events
    count, took = (now - then for now, then in zip(await _decided(ops), (count, took), strict=True))
    return {
        "seconds": round(seconds, 1),
        "core_percent": round(100 * (after.cpu - before.cpu) / seconds, 1),
        "pod_events_a_second": round(events / seconds, 1),
        "decisions_a_second": round(count / seconds, 2),
        "ms_a_decision": round(1000 * took / count, 1) if count else None,
    }


async def _come(kube: Session, drawn: Sequence[Life], rate: float, seconds: float) -> None:
    """Pods come so that there are so many of their events a second."""
    dice, number, due = random.Random(3), 0, time.monotonic()
    end = due + seconds
    making: list[asyncio.Task[object]] = []
    small = [life for life in drawn if life.gb <= GPU_GB // 2]
    while due < end:
        await asyncio.sleep(due - time.monotonic())
        body = pod_of(f"come-{number}", dice.choice(small), gated=True)
        making.append(asyncio.create_task(kube.create(PODS, body, namespace=_NAMESPACE)))
        number += 1
        due += dice.expovariate(rate / _EVENTS)
    await asyncio.gather(*making)


async def measure(options: argparse.Namespace, parts: Parts, say: Say) -> Figures:
    """One run on a control plane of its own."""
    drawn = lives(data_folder(), GPU_GB)
    made = fleet(_NAMESPACE, options.nodes, options.pods, options.pods // 100, drawn)
    with control_plane(parts, say) as (plane, _):
        core = programs.install(plane, say)
        try:
            return await _measure(options, plane, core, made, drawn, say)
        finally:
            core.planner.kill()


async def _measure(
    options: argparse.Namespace,
    plane: ControlPlane,
    core: programs.Core,
    made: Fleet,
    drawn: Sequence[Life],
    say: Say,
) -> Figures:
    planner, ops = core.planner, core.planner_ops
    async with await Session.connect("bench", str(plane.kubeconfig)) as kube:
        player = Player(kube, made)
        with step(say, f"{options.nodes} nodes and {options.pods} pods"):
            await _make(kube, made, player)
        following = [asyncio.create_task(each.run()) for each in player.reflectors]
        try:
            await asyncio.gather(*(each.synced.wait() for each in player.reflectors))
            first = await _first_plan(planner, player)
            await _quiet(planner)
            at_rest = await _cost(planner, ops, player, asyncio.sleep(options.seconds / 4))
            coming = _come(kube, drawn, options.rate, options.seconds)
            busy = await _cost(planner, ops, player, coming)
            await player.settled()
            peak = usage_of(planner.pid).peak_mib
        finally:
            for task in following:
                task.cancel()
            await asyncio.wait(following)
    return {
        "nodes": options.nodes,
        "pods": options.pods,
        **first,
        "most_mib": round(peak),
        "at_rest": at_rest,
        "busy": busy,
        "lived": player.lived,
        "harm": {"failed kubelet admissions": len(player.refused)},
    }


def lines(found: Figures) -> Iterable[str]:
    """What is printed."""
    yield f"{found['nodes']} nodes, {found['pods']} pods"
    yield (
        f"start to first plan: {found['start_to_first_plan_s']} s, of which it had the CPU "
        f"{found['start_to_first_plan_cpu_s']} s"
    )
    yield f"most memory: {found['most_mib']} MiB"
    for name in ("at_rest", "busy"):
        cost = found[name]
        yield (
            f"{name.replace('_', ' ')}: {cost['core_percent']} % of a core at "
            f"{cost['pod_events_a_second']} pod events a second; {cost['decisions_a_second']} "
            f"decisions a second of {cost['ms_a_decision']} ms"
        )
    yield f"{found['lived']} pods came and ended; {found['harm']}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner_at_scale")
    parser.add_argument("--nodes", type=int, default=1000, help="of 8 GPUs of 80 gb each")
    parser.add_argument("--pods", type=int, default=10_000, help="of which 1 in 100 waits")
    parser.add_argument(
        "--rate",
        type=float,
        default=7.8,  # 10.0 were counted then
        help="events of pods a second, if a pod's life had six of them; it has more",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures as JSON")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    around = surroundings(" ".join(("python -m benchmarks.planner_at_scale", *given)))
    found = asyncio.run(measure(options, cluster_parts.obtain(to_stderr), to_stderr))
    print("\n".join(lines(found)))
    if options.save is not None:
        options.save.write_text(json.dumps({**around, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
