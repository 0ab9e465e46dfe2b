"""Rows: clusters and pods that make a plan slow where it looks at everything again for each pod.

Each is timed at two sizes, the second twice the first, in a process of its own.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from benchmarks.packing_planner import OURS, planned
from benchmarks.packing_report import Row
from benchmarks.packing_times import yardstick
from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.model.constraints import (
    Constraints,
    Expression,
    HostPort,
    PodTerm,
    Relations,
    Resources,
    Spread,
)
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.pods import GATE, Pod, SliceClaim
from planner.model.snapshot import Neighbours, Snapshot

_SECTION: Final = "hostile shapes: a plan, in loops of a million rounds"
_LOOPS: Final = 25
_GROWTH: Final = 2.6
_NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
_WEB: Final = (Expression("app", "In", ("web",)),)

Case = tuple[Snapshot, list[Pod]]


_Held = Mapping[int, Slices]


def _nodes(
    count: int, *capacities: int, used: _Held | None = None, free: _Held | None = None
) -> Iterator[NodeState]:
    for number in range(count):
        name = f"n{number:05}"
        node = Node(name, labels={"host": name, "zone": f"z{number % 3}"})
        gpus = tuple(
            Gpu(
                GpuUuid(f"{name}-{index}"),
                index,
                gb,
                used=(used or {}).get(index, {}),
                free=(free or {}).get(index, {}),
            )
            for index, gb in enumerate(capacities)
        )
        yield NodeState(node, gpus, Resources(64_000, 1 << 40))


def _snapshot(nodes: Iterator[NodeState]) -> Snapshot:
    states = tuple(nodes)
    return Snapshot(states, now=_NOW, neighbours=Neighbours(tuple(s.node for s in states)))


def _pod(number: int, *sizes: int, minutes: int = 1, **fields: object) -> Pod:
    claims = tuple(SliceClaim(f"c{seat}", SliceSize(gb), seat) for seat, gb in enumerate(sizes))
    name = f"p{number:05}"
    created = (_NOW - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Pod("d", name, uid=name, created=created, gates=(GATE,), claims=claims, **fields)  # type: ignore[arg-type]


def _near(app: str) -> PodTerm:
    return PodTerm("host", (Expression("app", "In", (app,)),), frozenset({"d"}))


def spread_with_a_full_zone(pods: int) -> Case:
    """Twice as many alike pods as nodes; one zone of three has no room, so hardly any fits."""
    relations = Relations(spread=(Spread("zone", _WEB),))
    states = [
        state if number % 3 else _full(state) for number, state in enumerate(_nodes(pods // 2, 80))
    ]
    asked = [_pod(n, 10, relations=relations, labels={"app": "web"}) for n in range(pods)]
    return _snapshot(iter(states)), asked


def _full(state: NodeState) -> NodeState:
    gpus = tuple(replace(gpu, used={SliceSize(gpu.capacity): 1}) for gpu in state.gpus)
    return replace(state, gpus=gpus)


def different_pods_on_free_slices(pods: int) -> Case:
    """A free slice for every second pod."""
    nodes = _nodes(pods // 2, 80, free={0: {SliceSize(10): 1}})
    return _snapshot(nodes), [_pod(n, 10, requests=Resources(100 + n)) for n in range(pods)]


def apart_by_host(pods: int) -> Case:
    """Pods that keep away from one another, and a node for each."""
    relations = Relations(anti_affinity=(_near("web"),))
    asked = [_pod(n, 10, relations=relations, labels={"app": "web"}) for n in range(pods)]
    return _snapshot(_nodes(pods, 80)), asked


def with_a_host_port(pods: int) -> Case:
    """One port of the node for all, and a node for each."""
    asked = [_pod(n, 10, ports=(HostPort(80),)) for n in range(pods)]
    return _snapshot(_nodes(pods, 80)), asked


def near_an_absent_app(pods: int) -> Case:
    """Affinity to pods that are not there."""
    relations = Relations(affinity=(_near("absent"),))
    return _snapshot(_nodes(pods // 2, 80)), [_pod(n, 10, relations=relations) for n in range(pods)]


def aged_and_too_large(pods: int) -> Case:
    """Each has waited long, and no GPU could ever hold one."""
    return _snapshot(_nodes(pods, 80)), [_pod(n, 100, minutes=10) for n in range(pods)]


def young_too_large_and_different(pods: int) -> Case:
    """They fit nowhere; beside them a pod for every node, which it selects by its name."""
    large = [_pod(n, 100, requests=Resources(100 + n)) for n in range(pods)]
    small = [
        _pod(pods + n, 10, constraints=Constraints(node_selector=(("host", f"n{n:05}"),)))
        for n in range(pods)
    ]
    return _snapshot(_nodes(pods, *[80] * 8)), [*small, *large]


def two_slices_each(pods: int) -> Case:
    """Different pods whose two slices no node has room for at once."""
    used = {0: {SliceSize(15): 1}, 1: {SliceSize(35): 1}}
    asked = [_pod(n, 25, 10, requests=Resources(100 + n)) for n in range(pods)]
    return _snapshot(_nodes(pods, 40, 40, used=used)), asked


def a_priority_each(pods: int) -> Case:
    """More than fit, and no two of one priority."""
    dice = random.Random(1)
    asked = [_pod(n, dice.choice((10, 20, 30)), priority=n) for n in range(pods)]
    return _snapshot(_nodes(pods // 8, 80)), asked


def one_pod(nodes: int, *sizes: int) -> Case:
    """One pod that fits nowhere."""
    used = {0: {SliceSize(15): 1}, 1: {SliceSize(35): 1}}
    return _snapshot(_nodes(nodes, 40, 40, used=used)), [_pod(0, *sizes)]


CASES: Final[dict[str, tuple[Callable[[int], Case], int]]] = {
    "topology spread with a full zone, pods on half as many nodes": (spread_with_a_full_zone, 4800),
    "different pods on half as many free slices": (different_pods_on_free_slices, 4000),
    "anti-affinity by host": (apart_by_host, 5000),
    "a host port": (with_a_host_port, 1600),
    "affinity to an absent app": (near_an_absent_app, 1000),
    "aged and too large": (aged_and_too_large, 1500),
    "young, too large and all different": (young_too_large_and_different, 1000),
    "pods of two slices": (two_slices_each, 800),
    "a priority each": (a_priority_each, 800),
}
"""Name, how it is made, and the number of pods of the larger one."""


def hostile_rows(solvers: Sequence[bool]) -> Iterator[Row]:
    """Two rows a case, without the solver; and what a pod of two slices costs beyond another."""
    if False not in solvers:
        return
    for name, (_, pods) in CASES.items():
        half, whole = _elsewhere(name, pods // 2), _elsewhere(name, pods)
        growth = whole["seconds"] / half["seconds"]
        more = {"growth": growth, "half as many": half["loops"], "s": whole["seconds"]}
        label = f"{pods:,} × {name}"
        yield Row(_SECTION, label, OURS[False], whole["loops"], "loops", more=more).at_most(_LOOPS)
        yield Row(_SECTION, f"{label}: growth", OURS[False], growth, "").at_most(_GROWTH)
    several = _elsewhere("several", 4000)["loops"] - _elsewhere("one", 4000)["loops"]
    label = "one pod of two slices among 4,000 nodes, beyond one of one slice"
    yield Row(_SECTION, label, OURS[False], several, "loops").at_most(1)


def _case(name: str, size: int) -> Case:
    if name in ("several", "one"):
        return one_pod(size, *((25, 10) if name == "several" else (35,)))
    return CASES[name][0](size)


def _measure(name: str, size: int) -> dict[str, float]:
    snapshot, pods = _case(name, size)
    taken: list[float] = []
    stick: list[float] = []
    for work in (yardstick, lambda: planned(snapshot, pods, solver=False)) * 3:
        started = time.process_time()
        work()
        (stick if work is yardstick else taken).append(time.process_time() - started)
    return {"seconds": min(taken), "loops": min(taken) / min(stick)}


def _elsewhere(name: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.packing_hostile", name, str(size)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(answer)
    return figures


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))
