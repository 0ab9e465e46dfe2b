"""How long a slice pod waits on an idle cluster, from its creation until it is bound.

A real cluster of one node with 8 simulated GPUs of 192 GB. Three kinds of pod take turns with the
floor: an ungated pod whose slice is there already, which only the stock scheduler has to bind.
The second table says where the time goes, step by step.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmarks.latency_steps import (
    Durations,
    PodSeen,
    Step,
    Trail,
    layout_seen,
    median_steps,
    node_seen,
    pod_seen,
)
from hack.cluster import controlplane, lifecycle, parts, programs
from hack.cluster import node as nodes
from hack.cluster.progress import to_stderr
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, list_all
from mpslice.kube.errors import NotFound
from mpslice.kube.reflector import Change, Reflector
from mpslice.kube.session import Session

GPUS = 8
MEMORY_MIB = 183_359  # 192 gb
_WEBHOOKLESS = "kube-system"  # the webhooks leave this namespace alone
_GATED = "default"


@dataclass(slots=True)
class Bindings:
    """When each pod was first seen bound (monotonic seconds), from one watch."""

    trail: Trail
    at: dict[str, float] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def seen(self, change: Change[PodSeen]) -> None:
        self.trail.pod(change)
        if change.new and change.new.node:
            self.at.setdefault(change.key, time.perf_counter())
            self._changed.set()

    async def of(self, key: str) -> float:
        async with asyncio.timeout(30):
            while key not in self.at:
                self._changed.clear()
                await self._changed.wait()
        return self.at.pop(key)


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds from sending a pod until it was seen bound, and those of its steps."""

    milliseconds: float
    steps: Durations


@dataclass(frozen=True, slots=True)
class Bench:
    """The cluster, and what is needed to make a pod and see it bound."""

    kube: Session
    bindings: Bindings
    node: str

    async def bound_after(self, name: str, size: int, namespace: str = _GATED) -> Taken:
        """Sends the pod, waits until the watch shows its node, and removes it."""
        started = time.perf_counter()
        self.bindings.trail.begin(f"{namespace}/{name}", f"nvidia.com/gpu-{size}gb")
        await self.kube.create(PODS, _pod(name, size), namespace=namespace)
        bound = await self.bindings.of(f"{namespace}/{name}")
        taken = Taken((bound - started) * 1000, self.bindings.trail.durations())
        await self._remove(name, namespace)
        return taken

    async def hold(self, name: str, size: int) -> None:
        """A pod that stays."""
        await self.kube.create(PODS, _pod(name, size), namespace=_GATED)
        await self.bindings.of(f"{_GATED}/{name}")

    async def _remove(self, name: str, namespace: str) -> None:
        await self.kube.delete(PODS, name, namespace=namespace, grace_seconds=1)
        await self.until(lambda: self._is_gone(name, namespace), f"pod {name} is gone")
        await self.until(lambda: self._is_free(f"{namespace}/{name}"), f"slice of {name} is free")

    async def _is_gone(self, name: str, namespace: str) -> bool:
        try:
            await self.kube.read(PODS, name, namespace=namespace)
        except NotFound:
            return True
        return False

    async def _is_free(self, key: str) -> bool:
        layout = await self.kube.read(NODE_LAYOUTS, self.node)
        status = layout["status"]
        told = status["observedGeneration"] == layout["metadata"]["generation"]
        applied = {c["type"]: c["status"] for c in status["conditions"]}["Applied"] == "True"
        return (
            told
            and applied
            and all(s.get("pod") != key for gpu in status["gpus"] for s in gpu.get("slices", ()))
        )

    async def until(self, probe: Callable[[], Any], what: str) -> None:
        """Waits for the cluster to be idle again; not part of any figure."""
        deadline = time.monotonic() + 60
        while not await probe():
            if time.monotonic() > deadline:
                raise SystemExit(f"not within 60 s: {what}")
            await asyncio.sleep(0.05)


def _pod(name: str, size: int) -> dict[str, Any]:
    resources = {"limits": {f"nvidia.com/gpu-{size}gb": "1"}}
    command = ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]
    image = "localhost/busybox:1"
    container = {"name": "main", "image": image, "command": command, "resources": resources}
    spec = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@asynccontextmanager
async def running_cluster() -> AsyncIterator[Bench]:
    """A cluster of its own, ended with the block."""
    with lifecycle.owned(to_stderr) as cluster:
        plane = controlplane.start(cluster, parts.obtain(to_stderr), to_stderr)
        worker = nodes.start(plane, to_stderr)
        running = programs.start(plane, worker, to_stderr)
        gpus = [
            {
                "uuid": f"GPU-00000000-0000-0000-0000-{number:012}",
                "product": "NVIDIA B200",
                "memoryMiB": MEMORY_MIB,
                "reservedMiB": 600,
                "computeCapability": "10.0",
            }
            for number in range(1, GPUS + 1)
        ]
        running.simulated_gpus.write_text(yaml.safe_dump({"gpus": gpus}))
        running.nodeagent.restart()
        try:
            async with _connected(str(plane.kubeconfig), worker.name) as bench:
                yield bench
        finally:
            for program in (*running.programs, *worker.programs, *plane.programs):
                program.stop()


@asynccontextmanager
async def _connected(kubeconfig: str, node: str) -> AsyncIterator[Bench]:
    trail = Trail()
    bindings = Bindings(trail)
    async with await Session.connect("bench", kubeconfig) as kube:
        bench = Bench(kube, bindings, node)
        only = f"metadata.name={node}"
        watches = (
            Reflector(kube, PODS, pod_seen, bindings.seen),
            Reflector(kube, NODE_LAYOUTS, layout_seen, trail.layout, field_selector=only),
            Reflector(kube, NODES, node_seen, trail.node, field_selector=only),
        )
        tasks = [asyncio.create_task(watch.run()) for watch in watches]

        async def all_gpus() -> bool:
            layouts = await list_all(kube, NODE_LAYOUTS)
            return bool(layouts) and layouts[0]["status"]["summary"]["gpus"] == GPUS

        await bench.until(all_gpus, f"{GPUS} GPUs are known")
        try:
            yield bench
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def measure(bench: Bench, pods: int) -> dict[str, list[Taken]]:
    """What each pod took, by kind. The floor's comes after each other one, on the same slice."""
    figures: dict[str, list[Taken]] = {
        "floor": [],
        "existing size": [],
        "new size": [],
        "withdrawal": [],
    }
    await bench.bound_after("warm-up", 192)
    for number in range(pods):
        size = number + 1
        figures["new size"].append(await bench.bound_after(f"new-{number}", size))
        figures["floor"].append(await bench.bound_after(f"floor-{number}", size, _WEBHOOKLESS))
        figures["existing size"].append(await bench.bound_after(f"old-{number}", size))
        print(f"\r{number + 1} of {pods} rounds", end="", file=sys.stderr, flush=True)
    # All GPUs but one are held, and that one is carved whole: the other size needs it back.
    for number in range(GPUS - 1):
        await bench.hold(f"holder-{number}", 192)
    for number in range(pods + 2):
        taken = await bench.bound_after(f"swap-{number}", 191 + number % 2)
        if number >= 2:  # the first two are of new sizes as well
            figures["withdrawal"].append(taken)
    print(file=sys.stderr)
    return figures


def summary(figures: dict[str, list[Taken]]) -> list[dict[str, Any]]:
    """Median and p99 in milliseconds, the medians' ratio to the floor's, and each step's median."""
    floor = statistics.median(taken.milliseconds for taken in figures["floor"])
    return [
        {
            "kind": kind,
            **_spread(sorted(one.milliseconds for one in taken), floor),
            "median_ms_of_steps": median_steps(one.steps for one in taken),
        }
        for kind, taken in figures.items()
    ]


def _spread(values: Sequence[float], floor: float) -> dict[str, Any]:
    return {
        "pods": len(values),
        "median_ms": round(statistics.median(values), 1),
        "p99_ms": round(values[max(0, -(-len(values) * 99 // 100) - 1)], 1),
        "median_ratio_to_floor": round(statistics.median(values) / floor, 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=50, help="pods of each kind (default 50)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)

    async def run() -> list[dict[str, Any]]:
        async with running_cluster() as bench:
            return summary(await measure(bench, options.pods))

    rows = asyncio.run(run())
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'created → bound':16} {'pods':>5} {'median ms':>10} {'p99 ms':>8} {'× floor':>8}")
    for row in rows:
        print(
            f"{row['kind']:16} {row['pods']:5} {row['median_ms']:10} {row['p99_ms']:8}"
            f" {row['median_ratio_to_floor']:8}"
        )
    print(f"\n{'median ms of':16}", *(f"{step:>15}" for step in Step))
    for row in rows:
        steps = row["median_ms_of_steps"]
        print(f"{row['kind']:16}", *(f"{steps.get(step, '-'):>15}" for step in Step))


if __name__ == "__main__":
    main()
