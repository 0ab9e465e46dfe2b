"""When waiting alone changes a decision: a timer wakes the planner then, and nothing is polled."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from planner.model import Pod
from planner.packing.order import AGED, RESERVES


def seconds_to_change(pods: Iterable[Pod], now: datetime) -> float | None:
    """Seconds until the next of the pods has waited 5 minutes, or its reservation ends; at least 0.

    None when neither is to come. Creation times are whole seconds, so the change may be a second
    early for the truth, and is never missed.
    """
    created = [pod.created for pod in pods if pod.created]
    changes = [_next(created, now, after) for after in (AGED, AGED + RESERVES)]
    return min((change for change in changes if change is not None), default=None)


def _next(created: Iterable[str], now: datetime, after: timedelta) -> float | None:
    # RFC 3339 in UTC sorts as text, which saves reading thousands of times.
    edge = (now - after).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    first = min((text for text in created if text > edge), default=None)
    if first is None:
        return None
    return max(0.0, (datetime.fromisoformat(first) + after - now).total_seconds())
