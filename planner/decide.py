"""What the controller has to do next, as a pure function of what the cluster shows.

Because every decision is derived from the cluster's own state, a restart, a new leader or a lost
answer repeats at most what was already done.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from mpslice.nodelayout import NodeLayout
from mpslice.slices import SliceSize
from planner.ageing import earliest, next_change
from planner.gate.bindable import Bindable
from planner.gate.gates import keeps_gate, whole_groups
from planner.gate.guards import cleared, guards, guards_still, told
from planner.gate.passage import one_group_at_a_time
from planner.gate.preemption import evictions, kept_clear
from planner.gate.rivals import Rivals, nominations, ours
from planner.handover import hand_back, hand_over, outlived
from planner.model.nodes import Node
from planner.model.plan import Cause, Placement, Plan, Refusal, Reservation
from planner.model.pods import GATE, Available, Pod
from planner.model.preemption import Preemption
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.progress.course import (
    CLAIM_GRACE,
    Course,
    begin,
    next_deadline,
    settle,
    whose_turn,
    with_places,
)
from planner.progress.machine import RENOMINATE, Phase, Progress, nominated
from planner.progress.note import kept_place, wanted_note
from planner.state.absence import Absence, as_if_there, not_carried_out
from planner.state.bindings import seen_bound
from planner.state.known import KnownNodes
from planner.state.preemptible import preemptible
from planner.state.snapshot import build_snapshot
from planner.view import Decision, Leaving, View
from planner.words.condition import Verdicts, conditions
from planner.writes.actions import Action, Inform, Nominate, Ungate
from planner.writes.specs import spec_writes

__all__ = ["Decision", "Leaving", "View", "decide", "serving"]

LINGER: Final = timedelta(seconds=2)
"""How much later than the planner kube-scheduler may see that a node has a slice less: a pod whose
gate goes before would be bound to it, and fail on the node."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Sites:
    """The labelled nodes and their layouts by name: of those whose agents are there, and of those
    whose agents pods wait for, as they will be then.
    """

    labelled: tuple[Node, ...]
    here: Mapping[str, NodeLayout]
    awaited: Mapping[str, NodeLayout]


def decide(view: View) -> Decision:
    """Everything there is to do now. Nothing at all when the cluster is as planned."""
    now = view.now or _EPOCH
    view = replace(view, pods=seen_bound(view.pods, view.layouts, view.planned))
    course = begin(view.pods, view.progress, view.freed, view.refused, now)
    overdue = _overdue(view, course)
    view = replace(
        view,
        pods=tuple(
            [course.as_planned(pod) if pod.uid in course.every else pod for pod in view.pods]
        ),
        away={**view.away, **{name: Absence(False, why) for name, why in overdue.items()}},
    )
    sites = _sites(view)
    snapshot = _snapshot(view, course, sites.labelled, sites.here, view.known)
    pending = [pod for pod in view.pods if pod.is_pending and pod.key not in view.waiting]
    if view.preemption and pending:
        snapshot = _with_preemption(view, course, snapshot, sites.here)
    turns = whose_turn(pending, course, snapshot.groups)
    made = cleared(_planned(view, snapshot, course, turns.planned), snapshot)
    patient = _patient(view, course, sites, made)
    kept = guards(made.refusals, made.reservations, snapshot)
    made = replace(made, refusals=told(made.refusals, kept, made.reservations, snapshot))
    refused = (*made.refusals, *turns.resting)
    slices = Bindable(made, sites.here, view.nodes, snapshot.neighbours.pods)
    bindable, missing = slices.split()
    leaving = _leaving(view, slices.leaving)
    ready, carving = whole_groups(bindable, missing, refused, snapshot.groups)
    ready, carving = one_group_at_a_time(ready, carving, view.pods, sites.here)
    held = (*carving, *patient)
    elsewhere = {placement.pod.key for placement in patient}
    preempting = [p for p in made.preemptions if p.pod.key not in elsewhere]
    for_pods: list[Action] = list(
        _pod_actions(
            view,
            made,
            kept,
            leaving,
            ready,
            held,
            _without(refused, patient),
            snapshot,
            course,
            preempting,
        )
    )
    for_pods += evictions(preempting)
    going = {action.pod.uid for action in for_pods if isinstance(action, Ungate)}
    standing = tuple(p for p in bindable if not p.pod.gated or p.pod.uid in going)
    let_go = {p.pod.uid for p in standing}
    progress = settle(
        course,
        standing,
        [p for p in made.placements if p.pod.uid not in let_go],
        {p.pod.uid for p in missing},
        refused,
        made.reservations,
        preempting,
        now,
    )
    progress = with_places(progress, (*made.placements, *patient))
    for action in for_pods:
        if isinstance(action, Nominate) and action.pod.uid in progress:
            progress[action.pod.uid] = nominated(progress[action.pod.uid], now)
    said, tell_at = _conditions(view, snapshot, made, standing, carving, refused, progress)
    return Decision(
        actions=(
            *for_pods,
            *spec_writes(made, sites.here, snapshot.set_aside),  # before what nobody waits for
            *_words(view.pods, progress, said, for_pods),
            *_node_actions(view),
        ),
        carving=tuple(carving),
        standing=standing,
        refused=refused,
        patient=patient,
        gated=tuple(pod for pod in view.pods if _waits_for_others(pod)),
        unreadable=view.unreadable,
        away={
            node.name: view.away[node.name].problem
            for node in sites.labelled
            if node.name in view.away and view.away[node.name].problem
        },
        overdue=overdue,
        progress=progress,
        leaving=leaving,
        due=earliest(_due(view, pending, progress), tell_at, _lingers(leaving), _retried(view)),
        plan=made,
        snapshot=snapshot,
    )


def _planned(view: View, snapshot: Snapshot, course: Course, pods: Sequence[Pod]) -> Plan:
    """The plan, in which a pod whose gate goes meanwhile is not moved: it may be bound at once.

    A guard's nomination keeps others off what comes free; it is no claim of its own.
    """
    changed = {pod.uid: replace(pod, gates=()) for pod in pods if pod.uid in view.going}
    guarding = (pod for pod in pods if _guards(pod, snapshot, course))
    changed.update({pod.uid: replace(pod, nominated="") for pod in guarding})
    made = plan(snapshot, [changed.get(pod.uid, pod) for pod in pods], solver=view.solver)
    if not changed:
        return made
    real = {pod.uid: pod for pod in pods}
    return replace(
        made,
        placements=tuple(p._replace(pod=real.get(p.pod.uid, p.pod)) for p in made.placements),
        refusals=tuple(replace(r, pod=real.get(r.pod.uid, r.pod)) for r in made.refusals),
        reservations=tuple(replace(r, pod=real.get(r.pod.uid, r.pod)) for r in made.reservations),
        preemptions=tuple(replace(p, pod=real.get(p.pod.uid, p.pod)) for p in made.preemptions),
    )


def _leaving(view: View, now_leaving: Collection[tuple[str, SliceSize]]) -> Leaving:
    """Slices that are being withdrawn, and those that have gone less than LINGER ago.

    The time runs from the first decision that sees the slice gone, however long the agent took.
    """
    now = view.now or _EPOCH
    gone = {
        seat: until or now + LINGER
        for seat, until in view.leaving.items()
        if seat not in now_leaving
    }
    lingering = {seat: until for seat, until in gone.items() if until > now}
    return lingering | dict.fromkeys(now_leaving)


def _lingers(leaving: Leaving) -> datetime | None:
    """When gates may go that were kept because of slices that have been withdrawn."""
    return min((until for until in leaving.values() if until is not None), default=None)


def _guards(pod: Pod, snapshot: Snapshot, course: Course) -> bool:
    """Whether the planner nominated the pod to guard what a reservation keeps.

    It may have a reservation of its own by now, if that of the other has just been served.
    """
    begun = snapshot.preemptible is not None and bool(snapshot.preemptible.begun)
    if not (pod.nominated and pod.gated and (snapshot.reserving or begun)):
        return False
    progress = course.every.get(pod.uid)
    return progress is None or progress.phase is Phase.PENDING


def _due(view: View, pending: Iterable[Pod], progress: Mapping[str, Progress]) -> datetime | None:
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
        next_deadline(progress),
        min((end for end in holds if end > view.now), default=None),
        min((end for end in grace if end > view.now), default=None),
    )


def _retried(view: View) -> datetime | None:
    """When a pod may be evicted that the API server has refused to."""
    now = view.now or _EPOCH
    return min((until for until in view.spared.values() if until > now), default=None)


def _overdue(view: View, course: Course) -> dict[str, str]:
    """The nodes that let the deadline of a carve pass, with a clause for people."""
    return {
        name: not_carried_out(view.layouts[name])
        for name in sorted(course.overdue)
        if name in view.layouts and name not in view.away
    }


def _conditions(
    view: View,
    snapshot: Snapshot,
    made: Plan,
    standing: Sequence[Placement],
    carving: Sequence[Placement],
    refused: Sequence[Refusal],
    progress: Mapping[str, Progress],
) -> tuple[Mapping[str, Available], datetime | None]:
    if view.now is None:
        return {}, None
    states = {state.node.name: state for state in snapshot.nodes}
    label = "=".join(view.label)
    verdicts = Verdicts(standing, carving, refused, made.reservations, states, label, progress)
    return conditions(view.pods, verdicts, view.now)


def _words(
    pods: Iterable[Pod],
    progress: Mapping[str, Progress],
    told: Mapping[str, Available],
    others: Iterable[Action],
) -> Iterator[Inform]:
    """The annotations and conditions that say something else than they should.

    One write of a pod at a time: what the others write comes first.
    """
    written = {action.pod.uid for action in others if isinstance(action, Ungate | Nominate)}
    for pod in pods:
        known, available = progress.get(pod.uid), told.get(pod.uid)
        if (known is None and available is None) or pod.uid in written:
            continue
        note = wanted_note(pod, known, ours(pod)) if known is not None else pod.progress
        if note != pod.progress or available is not None:
            yield Inform(pod, note if note != pod.progress else None, available)


def _sites(view: View) -> _Sites:
    key, value = view.label
    labelled = tuple(node for node in view.nodes if node.labels.get(key) == value)
    layouts = serving(view.layouts.values())
    for node in labelled:
        if node.name in layouts and outlived(layouts[node.name], node):
            del layouts[node.name]
    here = {name: layout for name, layout in layouts.items() if name not in view.away}
    awaited = {
        name: as_if_there(layouts[name])
        for name, absence in view.away.items()
        if absence.awaited and name in layouts
    }
    return _Sites(labelled, here, awaited)


def serving(layouts: Iterable[NodeLayout]) -> dict[str, NodeLayout]:
    """By name, the layouts that may be planned on: not those that are being handed back."""
    return {layout.name: layout for layout in layouts if not layout.spec.release}


def _snapshot(
    view: View,
    course: Course,
    nodes: Iterable[Node],
    layouts: Mapping[str, NodeLayout],
    known: KnownNodes | None = None,
) -> Snapshot:
    kept = {pod.key: kept_place(pod) for pod in view.pods if pod.spread and pod.is_pending}
    return build_snapshot(
        nodes,
        layouts,
        view.pods,
        max_slices_per_gpu=view.max_slices_per_gpu,
        minimums=view.minimums,
        now=view.now,
        all_nodes=view.nodes,
        namespaces=view.namespaces,
        reserving=course.reserving(view.pods),
        known=known,
        kept={key: place for key, place in kept.items() if place is not None},
    )


def _with_preemption(
    view: View, course: Course, snapshot: Snapshot, layouts: Mapping[str, NodeLayout]
) -> Snapshot:
    """The snapshot with what preemption is decided on."""
    now = view.now or _EPOCH
    every = preemptible(
        layouts.values(),
        view.pods,
        snapshot.groups,
        view.budgets,
        spared=frozenset(uid for uid, until in view.spared.items() if until > now),
        able=frozenset(p.uid for p in view.pods if p.is_pending and course.may_preempt(p)),
        begun=course.preempting(),
    )
    return replace(snapshot, preemptible=every)


def _patient(view: View, course: Course, sites: _Sites, made: Plan) -> tuple[Placement, ...]:
    """Places for refused pods on nodes whose agents are away.

    A pod that fits elsewhere goes there meanwhile; one that fits only here waits with its gate,
    since the slices come back with the agent.
    """
    if not sites.awaited or not made.refusals:
        return ()
    nodes = (node for node in sites.labelled if node.name in sites.awaited)
    later = _snapshot(view, course, nodes, sites.awaited)
    return plan(later, [refusal.pod for refusal in made.refusals]).placements


def _without(refusals: Iterable[Refusal], placements: Iterable[Placement]) -> tuple[Refusal, ...]:
    placed = {placement.pod.key for placement in placements}
    return tuple(refusal for refusal in refusals if refusal.pod.key not in placed)


def _waits_for_others(pod: Pod) -> bool:
    over = pod.node or pod.finished or pod.terminating
    return bool(pod.claims) and not over and any(gate != GATE for gate in pod.gates)


def _pod_actions(
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
    while it could get one that is to be withdrawn.
    """
    guarded = {guard.pod.key for guard in guarding}
    clear = kept_clear((r.pod for r in refused if r.pod.gated), preempting, snapshot)
    kept = {
        r.pod.key
        for r in refused
        if view.gate
        and (
            r.pod.key in guarded
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
    wanted = nominations(placed, loose, stuck, reserved, rivals, course.every, view.now or _EPOCH)
    nominate = [
        action
        for action in wanted
        if action.pod.uid not in view.unnominable and not guards_still(action, leaving)
    ]
    yield from nominate
    held = {size for action in nominate for size in action.pod.seats}
    ungate = [Ungate(p.pod, carved=True, place=p) for p in ready]
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


def _node_actions(view: View) -> Iterator[Action]:
    """Nodes handed over and back; nothing where the node or its layout cannot be read."""
    key, value = view.label
    readable = [n for n in view.nodes if n.name not in view.unreadable and not n.problem]
    labelled = [node for node in readable if node.labels.get(key) == value]
    others = [node for node in readable if node.labels.get(key) != value]
    yield from hand_over(labelled, view.layouts)
    yield from hand_back(others, view.layouts, view.pods)
