"""The planner's Prometheus metrics."""

from collections import Counter
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as CounterMetric

from planner.decide import Decision
from planner.model import Pod

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0)


class Metrics:
    """Registered in a registry of their own, so that two planners can live in one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._plan = Histogram(
            "mpslice_plan_seconds", "One decision.", buckets=_FAST, registry=self.registry
        )
        self._pending = Gauge(
            "mpslice_pods_pending",
            "Slice pods without a node, by the commonest cause; Carving while slices are made.",
            ["cause"],
            registry=self.registry,
        )
        self._withdrawn = CounterMetric(
            "mpslice_slices_withdrawn", "Free slices planned away.", registry=self.registry
        )
        self._carved = Histogram(
            "mpslice_pending_to_carved_seconds",
            "From a pod's creation until its gate was taken away (created is in whole seconds).",
            buckets=_WAITS,
            registry=self.registry,
        )

    def decided(self, decision: Decision, *, seconds: float) -> None:
        self._plan.observe(seconds)
        self._withdrawn.inc(decision.plan.withdrawn)
        causes = Counter(refusal.reason for refusal in decision.refused)
        causes["Carving"] = len(decision.carving)
        self._pending.clear()
        for cause, count in causes.items():
            self._pending.labels(cause).set(count)

    def ungated(self, pod: Pod) -> None:
        if pod.created:
            created = datetime.fromisoformat(pod.created)
            self._carved.observe((datetime.now(UTC) - created).total_seconds())
