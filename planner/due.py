"""When a decision has to be made though nothing happens."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from planner.ageing import earliest, next_change
from planner.gate.rivals import ours
from planner.model.pods import Pod
from planner.progress.course import CLAIM_GRACE, next_deadline
from planner.progress.machine import RENOMINATE, Progress
from planner.view import View


def due(view: View, pending: Iterable[Pod], progress: Mapping[str, Progress]) -> datetime | None:
    """When a decision has to be made though nothing happens."""
    if view.now is None:
        return None
    reserving = (p.reserving for p in progress.values() if p.reserving is not None)
    holds = (p.preempting.until for p in progress.values() if p.preempting is not None)
    early = (pod for pod in pending if pod.volume_problem and pod.waits_since)
    grace = (datetime.fromisoformat(pod.waits_since) + CLAIM_GRACE for pod in early)
    cleared = (
        at + RENOMINATE
        for pod in pending
        if pod.progress and not pod.nominated and ours(pod)
        if (at := progress[pod.uid].nominated) is not None and at + RENOMINATE > view.now
    )
    return earliest(
        min(cleared, default=None),
        next_change(pending, reserving, view.now),
        next_deadline(progress, view.now),
        min((end for end in holds if end > view.now), default=None),
        min((end for end in grace if end > view.now), default=None),
        # When a pod may be evicted that the API server has refused to evict.
        min((until for until in view.spared.values() if until > view.now), default=None),
    )
