"""`python -m benchmarks.busy`: what a busy cluster costs the planner, and gates while it decides.

First a cluster of pods without slices of which some change every second, beside slice pods that
wait: the share of a core, beside that of parsing the same events alone. Then pods whose slices are
all there, while each decision takes long: how long until the last gate is gone.
"""

import argparse
import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import PODS, Json
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuSpec,
    GpuStatus,
    LayoutSpec,
    LayoutStatus,
    NodeLayout,
    SliceState,
    SliceStatus,
)
from mpslice.slices import SliceSize
from planner import controller
from planner.controller import Controller
from planner.decide import decide
from planner.metrics import Metrics
from planner.state.parse import parse_pod
from planner.view import Decision, View
from tests.planner.conftest import SETTINGS
from tests.planner.leading import (
    Recorder,
    layout_object,
    node_object,
    pod_object,
)
from tests.planner.leading import until as _true
from tests.planner.memory import Memory
from tests.waiting import eventually

_NODES = 40
_CREATED = "2026-01-01T00:00:00Z"


def ordinary(number: int, node: str, **labels: str) -> Json:
    """A pod without slices."""
    pod: Json = pod_object(f"web-{number}", 1, _CREATED, gated=False, nodeName=node)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1m", "memory": "1Mi"}}
    pod["metadata"]["labels"] = labels
    pod["status"] = {"phase": "Running"}
    return pod


def a_layout(name: str, slices: int) -> Json:
    """One GPU of 80 gb with so many free slices of 1 gb."""
    gpu, size = GpuUuid(f"{name}-gpu"), SliceSize(1)
    free = tuple(SliceStatus(DeviceId(gpu, size, k), 1, SliceState.FREE) for k in range(slices))
    status = LayoutStatus(
        1,
        (GpuStatus(gpu, 0, "Test", 80_000, 80, slices=free),),
        tuple(
            Condition(kind, True, "Test") for kind in (ConditionType.READY, ConditionType.APPLIED)
        ),
    )
    spec = LayoutSpec((GpuSpec(gpu, {size: slices} if slices else {}),))
    return layout_object(NodeLayout(name, spec, status, 1, uid=name))


@asynccontextmanager
async def leading(kube: Memory, deciding: Callable[[View], Decision]) -> AsyncIterator[None]:
    """A leading controller that decides so."""
    controller.decide = deciding  # type: ignore[assignment,attr-defined]  # counted or slow
    recorder: Any = Recorder()
    planner = Controller(kube, SETTINGS, recorder, Metrics())
    tasks = [asyncio.create_task(planner.follow()), asyncio.create_task(planner.lead())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        controller.decide = decide  # type: ignore[attr-defined]


async def busy(pods: int, rate: int, seconds: float) -> tuple[float, float, int]:
    """The planner's seconds of CPU a second, those of parsing alone, and decisions made."""
    names = [f"n{index}" for index in range(_NODES)]
    others = [ordinary(number, names[number % _NODES]) for number in range(pods)]
    waiting = [pod_object(f"huge-{n}", 500, _CREATED, gated=False) for n in range(50)]
    kube = Memory(
        nodes=[node_object(name, {"cpu": "1000", "pods": "5000"}) for name in names],
        nodelayouts=[a_layout(name, 2) for name in names],
        pods=[*others, *waiting],
    )
    decisions: list[float] = []

    def deciding(view: View) -> Decision:
        decisions.append(time.monotonic())
        return decide(view)

    async with leading(kube, deciding):
        await eventually(_true(lambda: bool(decisions)), "a decision is made", seconds=60)
        await asyncio.sleep(5)  # what there is to tell after the first decision
        before, began = len(decisions), time.process_time()
        spent = await _change(kube, others, rate, seconds)
        used = time.process_time() - began - spent
        made = len(decisions) - before
    changed = [ordinary(n, names[n % _NODES], version="x") for n in range(int(rate * seconds))]
    began = time.process_time()
    for each in changed:
        parse_pod(each)
    return used / seconds, (time.process_time() - began) / seconds, made


async def _change(kube: Memory, pods: list[Json], rate: int, seconds: float) -> float:
    """Shows so many changes a second; returns the CPU seconds that making them took."""
    spent, turn = 0.0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.process_time()
        for _ in range(rate // 10):
            turn += 1
            pod = copy.deepcopy(pods[turn % len(pods)])
            match turn % 3:
                case 0:
                    pod["metadata"]["labels"] = {"turn": str(turn)}
                    kube.show(PODS, pod, "MODIFIED")
                case 1:
                    kube.show(PODS, pod, "DELETED")
                case _:
                    pod["status"] = {"phase": "Succeeded"}
                    kube.show(PODS, pod, "MODIFIED")
        spent += time.process_time() - began
        await asyncio.sleep(0.1)
    return spent


class Gates(Memory):
    """Takes note of when each gate goes."""

    def __init__(self, **items: list[Json]) -> None:
        super().__init__(**items)
        self.at: list[float] = []
        self._pods = {pod["metadata"]["name"]: pod for pod in items["pods"]}

    async def patch(self, resource: Any, name: str, body: Any, **options: Any) -> Json:
        await asyncio.sleep(0.003)  # as an API server takes
        if resource is not PODS or "spec" not in body:
            return await super().patch(resource, name, body, **options)
        pod = copy.deepcopy(self._pods[name])
        pod["spec"].pop("schedulingGates", None)
        self.at.append(time.monotonic())
        stamped = self.stamped(pod)
        self.show(PODS, stamped, "MODIFIED")
        return stamped


async def gates(pods: int, slow: float) -> float:
    """Seconds from the first decision until the last gate is gone."""
    names = [f"n{index:03}" for index in range(-(-pods // 48))]
    kube = Gates(
        nodes=[
            node_object(name, {"nvidia.com/gpu-1gb": "48", "cpu": "1000", "pods": "500"})
            for name in names
        ],
        nodelayouts=[a_layout(name, 48) for name in names],
        pods=[pod_object(f"p{n:04}", 1, _CREATED) for n in range(pods)],
    )
    first: list[float] = []

    def deciding(view: View) -> Decision:
        if first:
            time.sleep(slow)
        decision = decide(view)
        first.append(time.monotonic())
        return decision

    async with leading(kube, deciding):
        await eventually(_true(lambda: len(kube.at) >= pods), "every gate is gone", seconds=120)
    return kube.at[-1] - first[0]


async def measure(options: argparse.Namespace) -> None:
    """Prints both."""
    share, parsing, made = await busy(options.pods, options.rate, options.seconds)
    print(
        f"{options.pods} pods without slices, {options.rate} of their events a second: "
        f"{100 * share:.1f} % of a core, {share / max(parsing, 1e-9):.1f} times parsing alone, "
        f"{made} decisions"
    )
    took = await gates(options.gates, options.slow)
    floor = max(0.0, (options.gates - SETTINGS.burst) / SETTINGS.qps)
    print(
        f"{options.gates} gates ready while decisions take {options.slow:.0f} s: the last is gone "
        f"after {took:.1f} s, {took / max(floor, 0.1):.2f} times what the limit of writes allows"
    )


def main() -> None:
    """Runs both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--pods", type=int, default=90_000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--gates", type=int, default=1_500)
    parser.add_argument("--slow", type=float, default=10.0)
    logging.disable(logging.CRITICAL)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
