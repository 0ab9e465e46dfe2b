"""Free slices that are being withdrawn, which kube-scheduler may not know of yet."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from mpslice.slices import SliceSize
from planner.view import Leaving

LINGER: Final = timedelta(seconds=2)
"""kube-scheduler may see by so much later than the planner that a node has a slice less. A pod that
loses its gate before could be bound to that slice, and would fail on the node."""


def still_leaving(
    before: Leaving, now_leaving: Collection[tuple[str, SliceSize]], now: datetime
) -> Leaving:
    """Slices that are being withdrawn, and those that have gone less than LINGER ago.

    The time runs from the first decision that sees the slice gone, however long the agent took.
    """
    latest = now + LINGER
    gone = {
        seat: min(until or latest, latest)  # later only by a clock that was ahead
        for seat, until in before.items()
        if seat not in now_leaving
    }
    lingering = {seat: until for seat, until in gone.items() if until > now}
    return lingering | dict.fromkeys(now_leaving)


def lingers(leaving: Leaving) -> datetime | None:
    """When gates may go that were kept because of slices that have been withdrawn."""
    return min((until for until in leaving.values() if until is not None), default=None)
