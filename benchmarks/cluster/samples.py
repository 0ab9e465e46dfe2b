"""The GPUs over time: what is used, what an omniscient packer could use, what is stranded."""

import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cluster.crowd import Moments
from benchmarks.cluster.load import Life
from benchmarks.packing_bound import lp_bound
from benchmarks.packing_instances import Ask, empty_cluster, homogeneous_fleet, pod_of

_GB: Final = 10**9
_OURS: Final = 'flow_schema="mpslice"'


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; `live` are the names of all pods that are there and have not ended."""

    at: float
    used_gb: int
    stranded_gb: float
    live: tuple[str, ...]


def take(pods: Mapping[str, Moments], stranded: float) -> Sample:
    """Of the pods as they have been seen."""
    live = {n: p for n, p in pods.items() if p.gb and p.created is not None and p.ended is None}
    used = sum(pod.gb for pod in live.values() if pod.bound is not None)
    return Sample(time.monotonic(), used, stranded, tuple(live))


def stranded_gb(planner: str) -> float:
    """What the planner's own metrics say; NaN where they cannot be read."""
    try:
        with urllib.request.urlopen(f"{planner}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return float("nan")
    lines = [line for line in text.splitlines() if 'state="stranded"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines) / _GB


@dataclass(frozen=True, slots=True)
class Flow:
    """What the API server has done of mpslice's requests in the priority level of their own."""

    served: int
    refused: int
    waited_seconds: float
    """All of them together, in its queues."""


def flow_of(metrics: str) -> Flow:
    """From kube-apiserver's metrics."""

    def total(name: str) -> float:
        lines = (
            line
            for line in metrics.splitlines()
            if line.startswith(f"apiserver_flowcontrol_{name}{{") and _OURS in line
        )
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    return Flow(
        round(total("dispatched_requests_total")),
        round(total("rejected_requests_total")),
        round(total("request_wait_duration_seconds_sum"), 3),
    )


def bound_gb(nodes: int, gpus: int, lives: Sequence[Life]) -> float:
    """What of these pods' gb could be placed at most on empty nodes, all at once."""
    snapshot = empty_cluster(homogeneous_fleet(nodes * gpus))
    asked = enumerate(lives)
    pods = [pod_of(Ask(life.gb, life.cpu_milli, life.memory_mib), 1000, n) for n, life in asked]
    return lp_bound(snapshot, pods)
