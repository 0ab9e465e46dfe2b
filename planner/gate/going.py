"""Which gates go now, and which pods are nominated before."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from mpslice.slices import SliceSize
from planner.gate.gates import keeps_gate
from planner.gate.guards import guards_still
from planner.gate.preemption import kept_clear
from planner.gate.rivals import Rivals, nominations
from planner.model.plan import Cause, Placement, Plan, Refusal, Reservation
from planner.model.preemption import Preemption
from planner.model.snapshot import Snapshot
from planner.progress.course import CLAIM_GRACE, Course
from planner.view import View
from planner.writes.actions import Nominate, Ungate


def pod_actions(
    view: View,
    made: Plan,
    guarding: Sequence[Reservation],
    leaving: Collection[tuple[str, SliceSize]],
    ready: Sequence[Placement],
    waiting: Sequence[Placement],
    refused: Sequence[Refusal],
    snapshot: Snapshot,
    course: Course,
    preempting: Sequence[Preemption],
) -> Iterator[Ungate | Nominate]:
    """Nominations, and the gates that go, in planned order.

    A pod whose gate is gone may be bound to any free slice of its size: so none of a size goes
    while the scheduler does not know yet for whom it is to keep one, and none without a place goes
    while it could get one that is to be withdrawn. After the API server was away a scheduler may
    see for a while what was so before: then none without a place goes. While nodes cannot be
    followed a slice may be gone that seems to stand, and after an outage that the planner was not
    there for nobody knows what is gone: then none goes at all.
    """
    guarded = {guard.pod.key for guard in guarding}
    clear = kept_clear((r.pod for r in refused if r.pod.gated), preempting, snapshot)
    kept = {
        r.pod.key
        for r in refused
        if view.gate
        and (
            view.catching_up
            or r.pod.key in guarded
            or r.pod.uid in clear
            or keeps_gate(r, snapshot, made.reservations)
            or _is_early(r, view.now)
        )
    }
    stuck = [r.pod for r in refused if r.pod.key in kept and r.pod.gated]
    loose = [r.pod for r in refused if r.pod.key not in kept or not r.pod.gated]
    placed = (*ready, *waiting)
    reserved = (*made.reservations, *guarding)
    ending = {pod.node for pod in view.pods if pod.terminating}
    rivals = Rivals(placed, loose, made.reservations, leaving, snapshot.nodes, ending)
    wanted = nominations(placed, loose, stuck, reserved, rivals, course.every, view.moment)
    nominate = [
        action
        for action in wanted
        if action.pod.uid not in view.unnominable and not guards_still(action, leaving)
    ]
    yield from nominate
    if view.blind and view.gate:
        return
    held = {size for action in nominate for size in action.pod.seats}
    # A scheduler that is catching up may not see the slice that is meant either.
    ungate = [
        Ungate(p.pod, carved=True, place=p)
        for p in ready
        if not (view.catching_up and rivals.reaches_going(p.pod, p.node))
    ]
    if not view.gate:
        ungate += [Ungate(p.pod, carved=False) for p in waiting]
    ungate += [
        Ungate(p, carved=False)
        for p in loose
        if not (view.gate and rivals.reaches_going(p)) and not course.backs_off(p)
    ]
    yield from (u for u in ungate if u.pod.gated and held.isdisjoint(u.pod.seats))


def _is_early(refusal: Refusal, now: datetime | None) -> bool:
    """Whether a claim that does not exist may be on its way, made together with its pod."""
    since = refusal.pod.waits_since
    return (
        refusal.own is Cause.VOLUME
        and bool(since)
        and now is not None
        and now - datetime.fromisoformat(since) < CLAIM_GRACE
    )
