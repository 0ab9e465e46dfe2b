"""The first table of RESULTS.md: what is wanted, what each run found, and what others publish.

Other people's figures are of other machines and other work: they are a scale, no comparison.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks.cluster.lone import KINDS
from benchmarks.cluster.run import FULL

Figures = dict[str, Any]

_PERF: Final = (
    "https://github.com/kubernetes/kubernetes/blob/master/test/integration/scheduler_perf/"
)
_KAI: Final = "https://github.com/kai-scheduler/KAI-Scheduler/blob/main/docs/scale-tests/"
_KUEUE: Final = "https://github.com/kubernetes-sigs/kueue/tree/main/test/performance/scheduler/"
_NOS: Final = "https://github.com/nebuly-ai/nos/tree/main/helm-charts/nos"

PEERS: Final = (
    (
        "kube-scheduler",
        "plain pods on 5,000 nodes: at least 680 a second of 10,000, 810 of 50,000",
        f"{_PERF}misc/performance-config.yaml (SchedulingBasic)",
    ),
    (
        "kube-scheduler",
        "beside 10,000 gated pods, on one node: at least 910 a second",
        f"{_PERF}misc/performance-config.yaml (SchedulingWhileGated)",
    ),
    (
        "kube-scheduler",
        "an extended resource on 5,000 nodes: at least 180 a second",
        f"{_PERF}misc/performance-config.yaml (SchedulingWithExtendedResource)",
    ),
    (
        "kube-scheduler",
        "extended resources by DRA on 500 nodes: at least 195 a second",
        f"{_PERF}dra/extendedresource/performance-config.yaml (ExtendedResource_50Classes)",
    ),
    (
        "KAI Scheduler",
        "4,000 jobs of one GPU on 500 simulated nodes: 398 s, 10 a second",
        f"{_KAI}example-results.json (Fill Cluster with single GPU Jobs)",
    ),
    (
        "KAI Scheduler",
        "until a job without room is told so: 249.5 s on average",
        f"{_KAI}example-results.json (Average time to unschedulable)",
    ),
    (
        "Kueue",
        "15,000 workloads without pods: 351 s on average, 42 a second",
        f"{_KUEUE}configs/baseline (rangespec.yaml, generator.yaml)",
    ),
    (
        "nos",
        "a change of slices: 10 s without new pods, then 5 s a node, so 15 s at least",
        f"{_NOS} (batchWindowIdleSeconds, devicePlugin.configUpdateDelaySeconds)",
    ),
)


@dataclass(frozen=True, slots=True)
class _Row:
    """`found` is what a run says, None where it says nothing of it."""

    what: str
    wanted: str
    found: Callable[[Figures], str | None]
    others: str = ""


def _part(run: Figures, name: str) -> Figures:
    for part in run.get("parts", ()):
        if part["name"] == name:
            return dict(part)
    return {}


def _rate(run: Figures) -> str | None:
    part = _part(run, "burst")
    seconds = part.get("first_created_to_last_bound_s")
    return f"{part['bound']['pods'] / seconds:.0f}" if seconds else None


def _alone(run: Figures) -> str | None:
    part = _part(run, "scheduler alone")
    seconds = part.get("first_created_to_last_bound_s")
    return f"{part['bound']['pods'] / seconds:.0f}" if seconds else None


def _seconds(run: Figures, part: str, wait: str, which: str) -> str | None:
    milliseconds = _part(run, part).get(wait, {}).get(which)
    return None if milliseconds is None else f"{milliseconds / 1000:.2f}"


def _writes(run: Figures) -> str | None:
    found = {name: _part(run, name).get("writes_in_all") for name in ("burst", "steady")}
    return ", ".join(f"{name} {each}" for name, each in found.items() if each) or None


def _lists(run: Figures) -> str | None:
    if "parts" not in run:
        return None
    return str(sum(sum(part["lists_again"].values()) for part in run["parts"]))


def _busy(run: Figures) -> str | None:
    busy = run.get("busy")
    return busy and f"{busy['core_percent']} at {busy['pod_events_a_second']} a second"


def _lone(run: Figures, kind: str) -> str | None:
    wait = _part(run, kind).get("bound_since_sent")
    ratio = run.get("ratios", {}).get(f"{kind} median_ms")
    return f"{ratio} ({wait['p99_ms'] / wait['median_ms']:.1f})" if wait and ratio else None


def is_virtual(run: Figures) -> bool:
    """Whether it is of `benchmarks.steady_hour`."""
    return "took_s" in run


def _is_full(run: Figures) -> bool:
    return bool(run.get("options", {}).get("load", 0) >= FULL)


def _below_bound(run: Figures) -> str | None:
    below = run.get("gpus_over_time", {}).get("points_below_bound")
    return _text(below) if _is_full(run) or is_virtual(run) else None


def _late(run: Figures) -> str | None:
    """Where the GPUs are full, pods wait for others' ends instead."""
    late = run.get("ratios", {}).get("steady p99 beyond the scheduler's own, s")
    return None if _is_full(run) else _text(late)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


_ROWS: Final = (
    *(
        _Row(
            f"{kind}: times the scheduler alone, median (p99 in medians)",
            f"≤ {wanted} (3) on 100 nodes",
            partial(_lone, kind=kind),
        )
        for kind, wanted in zip(KINDS, (2, 4, 6), strict=True)
    ),
    _Row(
        "steady arrivals: p99 beyond the scheduler's own at that rate, s",
        "≤ 0.3 at 50 a second, 300 nodes",
        _late,
    ),
    _Row(
        "burst of pods: seconds beyond the scheduler's own for slices that stand",
        "≤ 3 on 1,000 nodes",
        lambda run: _text(run.get("ratios", {}).get("burst beyond the scheduler's own, s")),
    ),
    _Row(
        "burst: pods bound a second, slices made for them",
        "",
        _rate,
        "KAI 10, Kueue 42 workloads, DRA 195, extended resources 180",
    ),
    _Row("the scheduler alone, same run: pods bound a second", "", _alone, "680 to 810; gated 910"),
    _Row(
        "burst: created → slice carved, median s",
        "",
        lambda run: _seconds(run, "burst", "carved", "median_ms"),
        "nos ≥ 15",
    ),
    _Row(
        "pod without room: until told why, p99 s",
        "≤ 2 among 1,000",
        lambda run: _seconds(run, "unplaceable", "told", "p99_ms"),
        "KAI 249.5 on average",
    ),
    _Row(
        "GPU memory while full: points below the offline bound",
        "≤ 0.5 on 1,000 nodes",
        _below_bound,
    ),
    _Row("writes of a pod's life", "≤ 4", _writes),
    _Row("lists after the start, all parts", "0 but on 410", _lists),
    _Row(
        "planner: start to first plan, s",
        "≤ 5 on 1,000 nodes, 10,000 pods",
        lambda run: _text(run.get("start_to_first_plan_s")),
    ),
    _Row(
        "planner: most memory, MiB",
        "≤ 250 on the same",
        lambda run: _text(run.get("most_mib")),
    ),
    _Row("planner: % of a core at pod events", "≤ 15 at 10 a second, the same", _busy),
)


def beside(runs: Sequence[Figures]) -> Iterator[str]:
    """The table: a column for each run."""
    names = [_name(run) for run in runs]
    yield "## What is wanted, and what was found"
    yield ""
    yield f"| what | wanted | {' | '.join(names)} | others |"
    yield f"| --- | --- |{' --- |' * len(names)} --- |"
    for row in _ROWS:
        found = [row.found(run) or "" for run in runs]
        yield f"| {row.what} | {row.wanted} | {' | '.join(found)} | {row.others} |"
    yield ""


def _name(run: Figures) -> str:
    busy = run["machine"]["load_before"] > run["machine"]["cores"] / 2
    kind = ", virtual time" if is_virtual(run) else ", planner alone"
    name = f"{run['nodes']:,} nodes" + ("" if "parts" in run else kind)
    return f"{name} (busy machine)" if busy and not is_virtual(run) else name


def peers() -> Iterator[str]:
    """What others have published of themselves, each with its source."""
    yield "## Published by others"
    yield ""
    yield "Of other machines and other work, and so no comparison; what is promised is a floor."
    yield ""
    yield "| project | figure | source |"
    yield "| --- | --- | --- |"
    for name, figure, source in PEERS:
        yield f"| {name} | {figure} | {source} |"
