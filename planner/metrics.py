"""The planner's Prometheus metrics.

The slices and the memory of each GPU are the node agent's to export; only what takes the whole
cluster to know, the stranded part of that memory, is exported here under the same name.
"""

import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mpslice.gpus import MemoryUnit
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.quarantine import Aside
from planner.stranded import stranded_gb
from planner.view import Decision
from planner.writes.actions import WriteSpec

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0)
_CREATED: Final = 1.0  # seconds: creationTimestamp leaves out the fraction


class Metrics:
    """Registered in a registry of their own, so that two planners can live in one test.

    `unit` is the bytes of one gb: Prometheus' own lint wants memory in bytes.
    """

    def __init__(self, unit: MemoryUnit = MemoryUnit.GB) -> None:
        self.registry = CollectorRegistry()
        self._first_seen: dict[str, float] = {}
        self._plan = Histogram(
            "mpslice_plan_seconds", "Time of one decision.", buckets=_FAST, registry=self.registry
        )
        self._pending = Gauge(
            "mpslice_pods_pending",
            "Slice pods without a node, by the commonest cause; Carving while slices are made.",
            ["cause"],
            registry=self.registry,
        )
        self._withdrawn = CounterMetric(
            "mpslice_withdrawals_planned",
            "Free slices that new layouts leave out.",
            registry=self.registry,
        )
        self._fallbacks = CounterMetric(
            "mpslice_solver_fallbacks",
            "Plans made without the solver, because it did not end in time.",
            registry=self.registry,
        )
        self._evicted = CounterMetric(
            "mpslice_pods_preempted",
            "Pods evicted for one of higher priority.",
            registry=self.registry,
        )
        self._set_aside = CounterMetric(
            "mpslice_pods_set_aside",
            "Kinds of pods that the planner could not decide with, by an error of its own.",
            registry=self.registry,
        )
        self._carved = Histogram(
            "mpslice_pending_to_carved_seconds",
            "From a pod's creation until its gate was taken away because its slices are there.",
            buckets=_WAITS,
            registry=self.registry,
        )
        self._stranded = _Stranded(unit)
        self.registry.register(self._stranded)

    def decided(self, decision: Decision, *, seconds: float) -> None:
        self._plan.observe(seconds)
        self._fallbacks.inc(decision.plan.fell_back)
        causes = Counter(refusal.reason for refusal in decision.refused)
        causes["Carving"] = len(decision.carving)
        causes[str(Cause.GATED)] = len(decision.gated)
        self._pending.clear()
        for cause, count in causes.items():
            self._pending.labels(cause).set(count)
        self._stranded.latest = decision

    def evicted(self) -> None:
        """A pod was evicted for another."""
        self._evicted.inc()

    def set_aside(self, _aside: Aside) -> None:
        """No decision could be made with a pod."""
        self._set_aside.inc()

    def idle(self) -> None:
        """Another replica leads, and counts the waiting pods."""
        self._pending.clear()
        self._stranded.latest = None

    def written(self, action: WriteSpec) -> None:
        """A new layout was accepted."""
        wanted = {gpu.uuid: Counter(dict(gpu.slices)) for gpu in action.spec.gpus}
        before = ((gpu.uuid, Counter(dict(gpu.slices))) for gpu in action.layout.spec.gpus)
        gone = (slices - wanted.get(uuid, Counter()) for uuid, slices in before)
        self._withdrawn.inc(sum(counts.total() for counts in gone))

    def arrived(self, pod: Pod) -> None:
        """A pod became pending."""
        self._first_seen[pod.uid] = time.monotonic()

    def left(self, uid: str) -> None:
        """It is no longer pending."""
        self._first_seen.pop(uid, None)

    def carved(self, pod: Pod) -> None:
        """A pod's gate was taken away because its slices are bindable."""
        now = time.monotonic()
        waited = now - self._first_seen.get(pod.uid, now)
        if pod.created:
            age = (datetime.now(UTC) - datetime.fromisoformat(pod.created)).total_seconds()
            waited = max(waited, age - _CREATED)  # the pod may be older than this process
        self._carved.observe(waited)


class _Stranded(Collector):
    """Computed when it is asked for. A GPU without stranded memory shows 0, not nothing."""

    def __init__(self, unit: MemoryUnit) -> None:
        self._unit = unit
        self.latest: Decision | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        memory = GaugeMetricFamily(
            "mpslice_gpu_memory_bytes",
            "GPU memory by state; stranded: not used, where no slice pod finds CPU, RAM or a place",
            labels=["node", "gpu", "state"],
        )
        if self.latest is not None:
            made = self.latest.plan
            pending = [p.pod for p in made.placements] + [r.pod for r in made.refusals]
            snapshot = self.latest.snapshot
            stranded = {(n, index): gb for n, index, gb in stranded_gb(snapshot, pending)}
            for state in snapshot.nodes:
                for gpu in state.gpus:
                    gb = stranded.get((state.node.name, gpu.index), 0)
                    labels = [state.node.name, str(gpu.index), "stranded"]
                    memory.add_metric(labels, gb * self._unit.value)
        return (memory,)
