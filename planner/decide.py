"""What the controller has to do next, as a pure function of what the cluster shows.

Because every decision is derived from the cluster's own state, a restart, a new leader or a lost
answer repeats at most what was already done.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from mpslice.nodelayout import NodeLayout
from planner.ageing import earliest
from planner.due import due
from planner.gate.bindable import Bindable
from planner.gate.gates import whole_groups
from planner.gate.going import pod_actions
from planner.gate.guards import cleared, guards, told
from planner.gate.passage import one_group_at_a_time
from planner.gate.preemption import evictions
from planner.model.nodes import Node
from planner.model.plan import Placement, Plan, Refusal
from planner.model.pods import GATE, Available, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.progress.course import (
    Course,
    begin,
    settle,
    whose_turn,
    with_places,
)
from planner.progress.machine import Phase, Progress, nominated
from planner.progress.note import kept_place, read_note, wanted_note
from planner.sites import Sites, find_sites, node_actions, overdue
from planner.state.absence import Absence
from planner.state.bindings import seen_bound
from planner.state.known import KnownNodes
from planner.state.preemptible import preemptible
from planner.state.snapshot import build_snapshot
from planner.view import Decision, View
from planner.words.condition import Verdicts, conditions
from planner.writes.actions import Action, Inform, Nominate, Ungate
from planner.writes.specs import spec_writes


def decide(view: View) -> Decision:
    """Everything there is to do now. Nothing at all when the cluster is as planned."""
    now = view.moment
    seen = seen_bound(view.pods, view.layouts, view.planned)
    taken = tuple(
        view.planned[new.uid] for old, new in zip(view.pods, seen, strict=True) if new is not old
    )
    view = replace(view, pods=seen)
    course = begin(view.pods, view.progress, view.freed, view.refused, now)
    late = overdue(view, course)
    view = replace(
        view,
        pods=tuple(
            [course.as_planned(pod) if pod.uid in course.every else pod for pod in view.pods]
        ),
        away={**view.away, **{name: Absence(False, why) for name, why in late.items()}},
    )
    sites = find_sites(view)
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
    leaving = slices.leaving | view.leaving
    ready, carving = whole_groups(bindable, missing, refused, snapshot.groups)
    ready, carving = one_group_at_a_time(ready, carving, view.pods, sites.here)
    held = (*carving, *patient)
    elsewhere = {placement.pod.key for placement in patient}
    preempting = [p for p in made.preemptions if p.pod.key not in elsewhere]
    for_pods: list[Action] = list(
        pod_actions(
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
            *node_actions(view),
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
        overdue=late,
        taken=taken,
        progress=progress,
        due=earliest(due(view, pending, progress), tell_at),
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


def _guards(pod: Pod, snapshot: Snapshot, course: Course) -> bool:
    """Whether the planner nominated the pod to guard what a reservation keeps.

    It may have a reservation of its own by now, if that of the other has just been served.
    """
    begun = snapshot.preemptible is not None and bool(snapshot.preemptible.begun)
    if not (pod.nominated and pod.gated and (snapshot.reserving or begun)):
        return False
    progress = course.every.get(pod.uid)
    return progress is None or progress.phase is Phase.PENDING


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
        note = pod.progress if known is None else _as_nominated(pod, known)
        if note != pod.progress or available is not None:
            yield Inform(pod, note if note != pod.progress else None, available)


def _as_nominated(pod: Pod, progress: Progress) -> str:
    """The annotation that the pod should have, as long as its nomination stays."""
    before = read_note(pod.progress)
    return wanted_note(pod, progress, before.nominated, late=before.late)


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
    now = view.moment
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


def _patient(view: View, course: Course, sites: Sites, made: Plan) -> tuple[Placement, ...]:
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
