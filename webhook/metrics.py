"""The webhook's Prometheus metrics: what was answered, and how long an answer took.

Counted in plain numbers by the one thread that serves, and made into metrics at a scrape, on that
thread too: the library's own counters take locks, which costs 5 % of the rate.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics(Collector):
    """Registered in a registry of their own, so that two webhooks can live in one test.

    `expires` gives the end of the serving certificate, None while there is none.
    """

    def __init__(self, expires: Callable[[], datetime | None] = lambda: None) -> None:
        self.registry = CollectorRegistry()
        self._expires = expires
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._buckets = [0] * (len(_SECONDS) + 1)
        self._seconds = 0.0
        self.registry.register(self)

    def answered(self, endpoint: str, verdict: str, reason: str, seconds: float) -> None:
        """Counts one request; `reason` is the reason code, "" where there is none."""
        self._requests[endpoint, verdict, reason] += 1
        self._buckets[bisect_left(_SECONDS, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """What a scrape shows."""
        requests = CounterMetricFamily(
            "mpslice_admission_requests",
            "Requests to mutate and validate: allowed, patched, warned, refused; or malformed, "
            "too_large, too_slow, too_busy, strange_client.",
            labels=["endpoint", "verdict", "reason"],
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        bounds = [*map(str, _SECONDS), "+Inf"]
        yield HistogramMetricFamily(
            "mpslice_admission_seconds",
            "From the head of a review to its answer, the client's sending included.",
            buckets=list(zip(bounds, accumulate(self._buckets), strict=True)),
            sum_value=self._seconds,
        )
        moment = self._expires()
        yield GaugeMetricFamily(
            "mpslice_certificate_expiry_timestamp_seconds",
            "When the serving certificate ends, in Unix time; 0 while there is none.",
            value=moment.timestamp() if moment else 0.0,
        )
