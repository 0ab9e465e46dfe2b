"""When waiting alone changes a plan: a timer wakes the planner then, and nothing is polled."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from planner.model.pods import Pod
from planner.packing.order import AGED, RESERVES


def next_change(
    pods: Iterable[Pod], reserving: Iterable[datetime], now: datetime
) -> datetime | None:
    """When the next of the pods has waited 5 minutes, or the next reservation ends.

    None when neither is to come. Creation times are whole seconds, so the change may be a second
    early for the truth, and is never missed.
    """
    # RFC 3339 in UTC sorts as text, which saves reading thousands of times.
    edge = (now - AGED).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    first = min((p.waits_since for p in pods if p.waits_since > edge), default=None)
    ends = [end for start in reserving if (end := start + RESERVES) > now]
    if first is not None:
        ends.append(max(now, datetime.fromisoformat(first) + AGED))
    return min(ends, default=None)


def earliest(*moments: datetime | None) -> datetime | None:
    """The first of those that are moments."""
    return min((moment for moment in moments if moment is not None), default=None)


def seconds_until(moment: datetime, now: datetime) -> float:
    """At least 0."""
    return max(timedelta(), moment - now).total_seconds()
