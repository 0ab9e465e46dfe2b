"""How long a NodeLayout takes to become bindable slices, and what the agent costs while idle.

A real kubelet and API server, 8 simulated GPUs of 192 GB, and layouts written in the planner's
place. The floor, in the same run and by turns, is a throwaway device plugin that only advertises.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.agent_floor import Floor
from hack.cluster import controlplane, lifecycle, parts
from hack.cluster import node as nodes
from hack.cluster.controlplane import ControlPlane
from hack.cluster.node import Node
from hack.cluster.progress import to_stderr
from mpslice.kube.api import NODE_LAYOUTS, NODES, PatchType
from mpslice.kube.reflector import Change, Reflector
from mpslice.kube.session import Session
from mpslice.nodelayout import APPLIED_ANNOTATION
from tests.chart import render

GPUS: Final = 8
GB: Final = 192
MEMORY_MIB: Final = 183_359
MOST: Final = 48
IDLE_SECONDS: Final = 0.1  # before each: what the one before has left to do is not its part
FULL: Final = {"4gb": MOST}
_PREFIX: Final = "nvidia.com/gpu-"

Layout = list[dict[str, int]]
Amounts = dict[str, int]


@dataclass(slots=True)
class Seen:
    """The newest of a watched object, and a wait for what it is to become."""

    value: Any = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, change: Change[Any]) -> None:
        self.value = change.new
        self._changed.set()

    def reaches(self, change: Change[int]) -> None:
        """Takes the number over if it is higher."""
        self.value = max(self.value or 0, change.new or 0)
        self._changed.set()

    async def becomes(self, wanted: Any) -> float:
        """When (perf_counter) the value is `wanted`."""
        async with asyncio.timeout(60):
            while self.value != wanted:
                self._changed.clear()
                await self._changed.wait()
        return time.perf_counter()


@dataclass(frozen=True, slots=True)
class Bench:
    """A node with the agent, seen through two watches."""

    kube: Session
    node: Node
    agent: int  # its pid
    allocatable: Seen
    acknowledged: Seen

    async def lay_out(self, layout: Layout) -> tuple[float, float]:
        """Milliseconds from the write until the node's status shows it, and its acknowledgement."""
        await asyncio.sleep(IDLE_SECONDS)
        gpus = [{"uuid": _uuid(n), "slices": slices} for n, slices in enumerate(layout)]
        started = time.perf_counter()
        written = await self.kube.patch(
            NODE_LAYOUTS, self.node.name, {"spec": {"gpus": gpus}}, type=PatchType.MERGE
        )
        shown = await self.allocatable.becomes(amounts_of(layout))
        told = await self.acknowledged.becomes(written["metadata"]["generation"])
        return (shown - started) * 1000, (told - started) * 1000


def amounts_of(layout: Layout) -> Amounts:
    """The node's slices by size."""
    amounts: Amounts = {}
    for slices in layout:
        for label, count in slices.items():
            amounts[f"{_PREFIX}{label}"] = amounts.get(f"{_PREFIX}{label}", 0) + count
    return amounts


def _uuid(number: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{number + 1:012}"


def _allocatable(node: Mapping[str, Any]) -> Amounts:
    entries = node["status"]["allocatable"].items()
    return {name: int(n) for name, n in entries if name.startswith(_PREFIX) and n != "0"}


def _applied(node: Mapping[str, Any]) -> int:
    """The generation of the layout that the node says is applied, 0 for none."""
    tag = node["metadata"].get("annotations", {}).get(APPLIED_ANNOTATION, "")
    return int(tag.rpartition("/")[2] or 0)


def _observed(layout: Mapping[str, Any]) -> int:
    return int((layout.get("status") or {}).get("observedGeneration", 0))


@asynccontextmanager
async def running_agent() -> AsyncIterator[tuple[Bench, Floor]]:
    """A cluster of its own with agent and floor, ended with the block."""
    with lifecycle.owned(to_stderr) as cluster:
        obtained = parts.obtain(to_stderr)
        plane = controlplane.start(cluster, obtained, to_stderr)
        crd = render(obtained.helm, "--show-only=templates/crd.yaml")[0]
        plane.kubectl("apply", "--filename=-", input=json.dumps(crd))
        plane.kubectl("wait", "--for=condition=Established", "crd/nodelayouts.mpslice.io")
        node = nodes.start(plane, to_stderr)
        try:
            with _agent(plane, node) as pid:
                async with _watching(plane, node, pid) as bench, Floor(node, bench.kube) as floor:
                    yield bench, floor
        finally:
            for program in (*node.programs, *plane.programs):
                program.stop()


@contextmanager
def _agent(plane: ControlPlane, node: Node) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        gpus = [
            {"uuid": _uuid(n), "memoryMiB": MEMORY_MIB, "reservedMiB": 600} for n in range(GPUS)
        ]
        file = Path(folder) / "gpus.yaml"
        file.write_text(yaml.safe_dump({"gpus": gpus}))
        command = [
            *(sys.executable, "-m", "nodeagent.main", f"--node-name={node.name}"),
            f"--kubeconfig={plane.kubeconfig}",
            f"--device-plugin-dir={node.device_plugin_dir}",
            f"--pod-resources-socket={node.pod_resources_socket}",
            f"--simulated-gpus={file}",
            f"--mps-root={folder}/mps",
            "--ops-listen=127.0.0.1:0",
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(20)


@asynccontextmanager
async def _watching(plane: ControlPlane, node: Node, pid: int) -> AsyncIterator[Bench]:
    async with await Session.connect("bench", str(plane.kubeconfig)) as kube:
        body = {
            "apiVersion": "mpslice.io/v1alpha1",
            "kind": "NodeLayout",
            "metadata": {"name": node.name},
            "spec": {"gpus": []},
        }
        await kube.create(NODE_LAYOUTS, body)
        bench = Bench(kube, node, pid, Seen(), Seen())
        selector = f"metadata.name={node.name}"
        watches = (
            Reflector(kube, NODES, _allocatable, bench.allocatable.put, field_selector=selector),
            Reflector(kube, NODES, _applied, bench.acknowledged.reaches, field_selector=selector),
            Reflector(kube, NODE_LAYOUTS, _observed, bench.acknowledged.reaches),
        )
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        try:
            await bench.acknowledged.becomes(1)
            yield bench
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@dataclass(slots=True)
class Figures:
    """Milliseconds by kind, in the order of the report."""

    by_kind: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, milliseconds: float) -> None:
        self.by_kind.setdefault(kind, []).append(milliseconds)


FLOOR_OF: Final = {
    "existing size: bindable": "floor: one more device",
    "existing size: acknowledged": "floor: one more device",
    "new size: bindable": "floor: new resource",
    "new size: acknowledged": "floor: new resource",
    "384 slices at once: bindable": "floor: 384 devices at once",
    "384 slices withdrawn": "floor: 384 devices at once",
    "one more beside 383: bindable": "floor: one more beside 383",
}


async def measure(bench: Bench, floor: Floor, rounds: int) -> Figures:
    """The kinds take turns, so that a busy moment of the machine meets all of them."""
    figures = Figures()
    others: Layout = [{"1gb": 1} for _ in range(GPUS - 1)]
    await bench.lay_out([{}, *others])
    await floor.new_resource("standing")
    for number in range(rounds):
        for count, kind in ((1, "new size"), (2, "existing size")):
            shown, told = await bench.lay_out([{f"{number + 2}gb": count}, *others])
            figures.add(f"{kind}: bindable", shown)
            figures.add(f"{kind}: acknowledged", told)
        figures.add("floor: new resource", await _timed(floor.new_resource(f"new-{number}")))
        figures.add("floor: one more device", await _timed(floor.one_more("standing")))
        await bench.lay_out([{}, *others])
        _progress(number + 1, rounds)
    return figures


async def measure_full(bench: Bench, floor: Floor, figures: Figures, rounds: int) -> None:
    """Eight GPUs with 48 slices each: all at once, one more beside the others, and none again."""
    empty: Layout = [{} for _ in range(GPUS)]
    full: Layout = [dict(FULL) for _ in range(GPUS)]
    but_one: Layout = [*full[1:], {"4gb": MOST - 1}]
    await bench.lay_out(empty)
    for number in range(rounds):
        figures.add("384 slices at once: bindable", (await bench.lay_out(full))[0])
        await bench.lay_out(but_one)
        figures.add("one more beside 383: bindable", (await bench.lay_out(full))[0])
        figures.add("384 slices withdrawn", (await bench.lay_out(empty))[0])
        name = f"full-{number}"
        at_once = floor.new_resource(name, GPUS * MOST - 1)
        figures.add("floor: 384 devices at once", await _timed(at_once))
        figures.add("floor: one more beside 383", await _timed(floor.one_more(name)))
        _progress(number + 1, rounds)
    await bench.lay_out(full)


async def _timed(work: Any) -> float:
    await asyncio.sleep(IDLE_SECONDS)
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1000


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} rounds", end="\n" if done == total else "", file=sys.stderr)


async def idle(pid: int, seconds: float) -> dict[str, float]:
    """What the agent takes: CPU in percent of a core, wake-ups a second, resident memory in MB."""
    await asyncio.sleep(5)  # what the last layout left to do is not idling
    before, started = _cpu_and_switches(pid), time.monotonic()
    await asyncio.sleep(seconds)
    after, passed = _cpu_and_switches(pid), time.monotonic() - started
    status = _status(pid)
    return {
        "seconds": round(passed, 1),
        "cpu_percent_of_a_core": round(100 * (after[0] - before[0]) / passed, 3),
        "wakeups_per_second": round((after[1] - before[1]) / passed, 2),
        "resident_mb": round(int(status["VmRSS"].split()[0]) * 1024 / 1e6, 1),
        "most_resident_mb": round(int(status["VmHWM"].split()[0]) * 1024 / 1e6, 1),
    }


def _cpu_and_switches(pid: int) -> tuple[float, int]:
    seconds = sum(
        int((thread / "schedstat").read_text().split()[0])
        for thread in Path(f"/proc/{pid}/task").iterdir()
    )
    switches = sum(
        int(line.split()[1])
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for line in (thread / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
    return seconds / 1e9, switches


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def summary(figures: Figures) -> list[dict[str, Any]]:
    """Median and p99 in milliseconds, and the medians' ratio to the floor's."""
    rows = []
    for kind, values in sorted(figures.by_kind.items()):
        median = statistics.median(values)
        floor = statistics.median(figures.by_kind[FLOOR_OF.get(kind, kind)])
        rows.append(
            {
                "kind": kind,
                "rounds": len(values),
                "median_ms": round(median, 1),
                "p99_ms": round(sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)], 1),
                "median_ratio_to_floor": round(median / floor, 2),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="of each kind (default 50)")
    parser.add_argument("--idle", type=float, default=65, help="seconds to look at an idle agent")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)

    async def run() -> dict[str, Any]:
        async with running_agent() as (bench, floor):
            figures = await measure(bench, floor, options.rounds)
            await measure_full(bench, floor, figures, max(3, options.rounds // 5))
            load = os.getloadavg()[0]
            return {
                "latency": summary(figures),
                "idle": await idle(bench.agent, options.idle),
                "load_average": round(load, 1),
            }

    report = asyncio.run(run())
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{'written →':30} {'rounds':>6} {'median ms':>10} {'p99 ms':>8} {'× floor':>8}")
    for row in report["latency"]:
        print(
            f"{row['kind']:30} {row['rounds']:6} {row['median_ms']:10} {row['p99_ms']:8}"
            f" {row['median_ratio_to_floor']:8}"
        )
    print("idle with 8 × 48 slices:", *(f"{k}={v}" for k, v in report["idle"].items()))


if __name__ == "__main__":
    main()
