"""The webhook's Prometheus metrics: what was answered, and how long an answer took."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Registered in a registry of their own, so that two webhooks can live in one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mpslice_admission_requests",
            "Reviews: allowed, patched, warned, refused; or malformed, too_large, too_slow.",
            ["verdict", "reason"],
            registry=self.registry,
        )
        self._counters: dict[tuple[str, str], Counter] = {}  # labels() costs more than counting
        self._seconds = Histogram(
            "mpslice_admission_seconds",
            "From the head of a review to its answer, the client's sending included.",
            buckets=_SECONDS,
            registry=self.registry,
        )

        self._expiry = Gauge(
            "mpslice_certificate_expiry_timestamp_seconds",
            "When the serving certificate ends, in Unix time; 0 while there is none.",
            registry=self.registry,
        )

    def watch_expiry(self, expires: Callable[[], datetime | None]) -> None:
        """Takes the end of the serving certificate from here at each scrape."""

        def timestamp() -> float:
            moment = expires()
            return moment.timestamp() if moment else 0.0

        self._expiry.set_function(timestamp)

    def answered(self, verdict: str, reason: str, seconds: float) -> None:
        """Counts one request; `reason` is the reason code, "" where there is none."""
        counter = self._counters.get((verdict, reason))
        if counter is None:
            counter = self._counters[verdict, reason] = self._requests.labels(verdict, reason)
        counter.inc()
        self._seconds.observe(seconds)
