"""The figures of a run, from what was noted of it: plain numbers that can be printed and kept."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks.cluster import audit, lone
from benchmarks.cluster.crowd import Moments
from benchmarks.cluster.run import STEADY_FLOOR, Part, Run
from benchmarks.cluster.samples import Flow, Sample, bound_gb
from benchmarks.cluster.stand import GPUS

Figures = dict[str, Any]

_BOUNDS: Final = 12
"""At so many of the samples the bound is computed: it is a linear program each time."""


_FLOORS: Final = {
    **dict.fromkeys(lone.KINDS, lone.FLOOR),
    "burst": "scheduler alone",
    "steady": STEADY_FLOOR,
}
"""By part the one that it is compared with."""


def figures(run: Run, refused: Sequence[str], flow: Flow) -> Figures:
    """All of them. `refused` are pods that a kubelet had no device for."""
    parts = [_part(run, part) for part in run.parts.values()]
    return {
        "nodes": len(run.stand.nodes),
        "gpus": len(run.stand.nodes) * GPUS,
        "options": {
            name: getattr(run.options, name)
            for name in (
                "lone",
                "burst",
                "rate",
                "seconds",
                "load",
                "waiting",
                "waiting_gb",
                "seed",
            )
        },
        "parts": parts,
        "ratios": _ratios({part["name"]: part for part in parts}),
        "memory": {name: _memory(values) for name, values in run.watch.memory.items()},
        "gpus_over_time": _over_time(run),
        "flow": asdict(flow),
        "harm": {
            "failed kubelet admissions": len(refused),
            "pods that somebody else ended": len(run.crowd.harmed) - len(refused),
        },
    }


def waits(pods: Iterable[Moments], until: str, since: str = "created") -> Figures:
    """Milliseconds from creation, or another moment: how many got so far, median and p99."""
    return spread([w for pod in pods if (w := pod.waited(until, since)) is not None])


def spread(seconds: Iterable[float]) -> Figures:
    """Milliseconds: how many pods there are, median and p99."""
    found = sorted(1000 * each for each in seconds)
    return {
        "pods": len(found),
        "median_ms": round(statistics.median(found), 1) if found else None,
        "p99_ms": round(quantile(found, 0.99), 1) if found else None,
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least so large a share does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _part(run: Run, part: Part) -> Figures:
    pods = run.moments(part.name)
    traffic = audit.traffic(audit.read(run.stand.audit, part.began, part.ended))
    count = len(part.pods)
    created = sorted(1000 * seconds for seconds in part.created_seconds)
    ends = [pod.bound for pod in pods if pod.bound is not None]
    begins = [pod.created for pod in pods if pod.created is not None]
    return {
        "name": part.name,
        "pods": count,
        "seconds": round(part.seconds, 1),
        "accepted": {
            "median_ms": round(statistics.median(created), 1) if created else None,
            "p99_ms": round(quantile(created, 0.99), 1) if created else None,
        },
        "carved": waits([pod for pod in pods if pod.had_room], "carved"),
        "bound": waits(pods, "bound"),
        "bound_since_sent": waits(pods, "bound", "sent"),
        "told": waits([pod for pod in pods if pod.bound is None], "told"),
        "first_created_to_last_bound_s": round(max(ends) - min(begins), 2) if ends else None,
        "components": {name: _component(part, name, traffic) for name in part.after.usage},
        "writes": _each(traffic.life(), count),
        "writes_in_all": round(sum(traffic.life().values()) / count, 2) if count else None,
        "events": _each(
            {w: n for w, n in traffic.writes.items() if w[1] == "Event"}, count
        ),
        "lists_again": dict(traffic.relists),
        "watches_again": traffic.rewatches,
        "looks_before_withdrawals": traffic.looks,
        "refused_requests": {f"{who} {code}": n for (who, code), n in traffic.failures.items()},
    }  # fmt: skip


def _component(part: Part, name: str, traffic: audit.Traffic) -> Figures:
    count = max(1, len(part.pods))
    cpu = part.after.usage[name].cpu - part.before.usage[name].cpu
    octets = part.after.bytes[name] - part.before.bytes[name]
    return {
        "core_percent": round(100 * cpu / part.seconds, 1),
        "cpu_ms_a_pod": round(1000 * cpu / count, 1),
        "mib": round(part.after.usage[name].mib),
        "requests_a_pod": round(traffic.of(name) / count, 2),
        "kib_a_pod": round(octets / 1024 / count, 1),
    }


def _each(counts: Any, pods: int) -> dict[str, float]:
    named = {key if isinstance(key, str) else " ".join(key): n for key, n in counts.items()}
    return {key: round(n / max(1, pods), 2) for key, n in sorted(named.items())}


def _ratios(parts: dict[str, Figures]) -> Figures:
    """To pods that the scheduler alone binds, in the same run. The time of a lone pod counts from
    when it was sent, with its admission."""
    ratios: Figures = {}
    for name, floor in _FLOORS.items():
        if name in parts:
            wait = "bound_since_sent" if name in lone.KINDS else "bound"
            bound, alone = parts[name][wait], parts[floor][wait]
            for figure in ("median_ms", "p99_ms"):
                if bound[figure] and alone[figure]:
                    ratios[f"{name} {figure}"] = round(bound[figure] / alone[figure], 2)
    if "steady" in parts:
        late, floor = (parts[each]["bound"]["p99_ms"] for each in ("steady", STEADY_FLOOR))
        beyond = round((late - floor) / 1000, 2) if late and floor else None
        ratios["steady p99 beyond the scheduler's own, s"] = beyond
    if "burst" in parts:
        last, floor = (
            parts[each]["first_created_to_last_bound_s"] for each in ("burst", "scheduler alone")
        )
        beyond = round(last - floor, 2) if last and floor else None
        ratios["burst beyond the scheduler's own, s"] = beyond
    return ratios


def _memory(values: Sequence[float]) -> Figures:
    return {"most_mib": round(max(values)), "last_mib": round(values[-1])}


def _over_time(run: Run) -> Figures:
    """Means over the steady part, in percent of all GPU memory."""
    taken = run.samples
    if not taken:
        return {}
    capacity = run.stand.capacity_gb
    chosen = taken[:: max(1, len(taken) // _BOUNDS)]
    bounds = [_bound(run, sample) for sample in chosen]
    used = statistics.fmean(sample.used_gb for sample in chosen)
    stranded = [sample.stranded_gb for sample in taken if not math.isnan(sample.stranded_gb)]
    hands = changed_hands(run.crowd.pods.values(), taken[0].at, taken[-1].at)
    return {
        "samples": len(taken),
        "capacity_gb": capacity,
        **beside_bound(used, statistics.fmean(bounds), hands, capacity),
        "stranded_percent": round(100 * statistics.fmean(stranded) / capacity, 2)
        if stranded
        else None,
    }


def beside_bound(used: float, bound: float, hands: float, capacity: float) -> Figures:
    """Means in gb, `hands` in gb a second, as percents of the capacity."""
    return {
        "used_percent": round(100 * used / capacity, 2),
        "bound_percent": round(100 * bound / capacity, 2),
        "points_below_bound": round(100 * (bound - used) / capacity, 2),
        "percent_changing_hands_a_second": round(100 * hands / capacity, 3),
        "seconds_between_pods": round((bound - used) / hands, 2) if hands else None,
    }


def changed_hands(pods: Iterable[Moments], since: float, until: float) -> float:
    """The gb a second that pods were bound to between two moments.

    By Little's law memory that could be used and is not stands idle, from a pod's end until the
    next one is bound, for that much of it divided by this: the same seconds cost a small cluster
    with many short pods far more than a large one.
    """
    gb = sum(pod.gb for pod in pods if pod.bound is not None and since < pod.bound <= until)
    return gb / (until - since) if until > since else 0.0


def _bound(run: Run, sample: Sample) -> float:
    return bound_gb(len(run.stand.nodes), GPUS, [run.lives[name] for name in sample.live])
