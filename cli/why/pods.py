"""Says why a pod waits, or what has become of it. Pure.

It decides by the pod, its Events, and the planner's own decision where the person sees enough for
that.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cli.nodestate import states as node_states
from cli.observe import Observed
from cli.why import advice
from cli.why.answer import Answer, QueuePlace, Remedy, State, Told
from cli.why.remedies import find_remedies, handed_over
from cli.why.trial import Trials
from mpslice.nodelayout import NodeLayout
from mpslice.slices import looks_like_slice, parse_resource, probably_meant
from planner.model.plan import Cause, Placement, Refusal
from planner.model.pods import GATE, Pod
from planner.state.parse import parse_pod
from planner.view import Decision
from planner.words.condition import AVAILABLE, queued
from planner.words.explain import placement_text, refusal_text, reservation_text, sizes_text

Json = Mapping[str, Any]

EARLY: Final = timedelta(seconds=5)
"""Time that the planner may take to write its first reason on a pod that waits."""

_AHEAD: Final = 5  # pods of the queue that are named
_NEAR: Final = re.compile(r"([1-9][0-9]{0,6})[-_.]?gi?b?$", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Insight:
    """What answers are based on; `decision` is None where the person sees too little."""

    observed: Observed
    decision: Decision | None = None
    trials: Trials | None = None

    @classmethod
    def of(cls, observed: Observed, decision: Decision | None) -> "Insight":
        return cls(observed, decision, Trials(decision) if decision is not None else None)


def about_pod(raw: Json, told: Sequence[Told], insight: Insight) -> Answer:
    """The answer about a Pod object; `told` are its Events, the newest last."""
    pod = parse_pod(raw)
    answer = _answer(raw, pod, insight)
    said = _without_repeats((*_conditions(raw), *told), answer.summary)
    return replace(answer, told=said, lacking=insight.observed.lacking)


def _without_repeats(told: Iterable[Told], summary: str) -> tuple[Told, ...]:
    """Leaves out what repeats the summary or an earlier entry."""
    bodies = [summary]
    found: list[Told] = []
    for each in told:
        body = each.message.partition(": ")[2]
        if not any(before.startswith(body) for before in bodies):
            bodies.append(body)
            found.append(each)
    return tuple(found)


def _answer(raw: Json, pod: Pod, insight: Insight) -> Answer:
    about, status = f"Pod {pod.key}", raw.get("status") or {}
    if pod.finished:
        return _finished(about, pod, status)
    if not pod.claims:
        facts = tuple(_near_misses(raw))
        text = "it asks for no slice, so mpslice has no part in where it runs"
        return Answer(about, State.NOT_CONCERNED, "NoSlice", text, facts)
    if pod.terminating:
        return Answer(about, State.FINE, "Terminating", "it is being deleted")
    if pod.node:
        return _bound(about, pod, status, insight.observed.layouts)
    gates = [gate for gate in pod.gates if gate != GATE]
    if gates:
        gate, are = ("gate", "is") if len(gates) == 1 else ("gates", "are")
        text = f"it waits for the scheduling {gate} {', '.join(gates)}, which {are} not mpslice's"
        remedies = (Remedy("gate", advice.CAUSES[Cause.GATED]),)
        return Answer(about, State.WAITS, str(Cause.GATED), text, remedies=remedies)
    if insight.decision is not None and insight.trials is not None:
        found = _judged(about, pod, insight, insight.decision, insight.trials)
        if found is not None:
            return found
    return _as_told(about, pod, insight.observed.now)


def _finished(about: str, pod: Pod, status: Json) -> Answer:
    if pod.succeeded:
        return Answer(about, State.FINE, "Succeeded", "it has succeeded, and holds no slice")
    reason = str(status.get("reason") or "Failed")
    message = str(status.get("message") or "one of its containers failed")
    return Answer(about, State.FAILED, reason, f"it has failed: {message}")


def _bound(about: str, pod: Pod, status: Json, layouts: Mapping[str, NodeLayout] | None) -> Answer:
    at = _gpus(pod, (layouts or {}).get(pod.node))
    has = f"it has its slice: {sizes_text(pod)} on {pod.node}{at}"
    waiting = list(_waiting_containers(status))
    if status.get("phase") == "Running" and not waiting:
        return Answer(about, State.FINE, "Running", has)
    if waiting:
        name, reason, message = waiting[0]
        words = f"{reason}: {message}" if message else reason
        text = f"{has}; container {name} does not run: {words}"
        state = State.ON_ITS_WAY if reason in _STARTING else State.FAILED
        return Answer(about, state, reason, text)
    return Answer(about, State.ON_ITS_WAY, "Starting", f"{has}; the kubelet starts it")


_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})


def _waiting_containers(status: Json) -> Iterator[tuple[str, str, str]]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            waiting = (container.get("state") or {}).get("waiting")
            if waiting:
                reason = str(waiting.get("reason") or "Waiting")
                yield str(container.get("name")), reason, str(waiting.get("message") or "")


def _gpus(pod: Pod, layout: NodeLayout | None) -> str:
    gpus = layout.status.gpus if layout is not None and layout.status is not None else ()
    held = sorted({g.index for g in gpus for s in g.slices if s.pod == pod.key})
    return f" GPU {', '.join(map(str, held))}" if held else ""


def _near_misses(raw: Json) -> Iterator[str]:
    """Yields resource names that were probably meant as a slice."""
    spec = raw.get("spec") or {}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        resources = container.get("resources") or {}
        for name in {**(resources.get("requests") or {}), **(resources.get("limits") or {})}:
            meant = _meant(str(name))
            if meant:
                yield f"container {container.get('name')} asks for {name}; {meant} is a slice"


def _meant(name: str) -> str:
    if parse_resource(name) is not None:
        return ""
    if looks_like_slice(name):
        return probably_meant(name) or ""
    found = _NEAR.search(name)
    return f"nvidia.com/gpu-{found[1]}gb" if found and "gpu" in name.lower() else ""


def _judged(
    about: str, pod: Pod, insight: Insight, decision: Decision, trials: Trials
) -> Answer | None:
    """Answers by the planner's decision now; None for a pod that is newer than the decision."""
    states = {state.node.name: state for state in decision.snapshot.nodes}
    for placement in decision.standing:
        if placement.pod.uid == pod.uid:
            text = f"a slice is ready for it: {placement_text(placement, states)}"
            facts = _scheduler(pod)
            return Answer(about, State.ON_ITS_WAY, "SliceReady", text, facts)
    for placement in decision.carving:
        if placement.pod.uid == pod.uid:
            text = f"its slice is being made: {placement_text(placement, states)}"
            return Answer(about, State.ON_ITS_WAY, "Carving", text)
    for placement in decision.patient:
        if placement.pod.uid == pod.uid:
            return _patient(about, placement, decision)
    refusal = next((r for r in decision.refused if r.pod.uid == pod.uid), None)
    if refusal is None:
        return None
    return _refused(about, refusal, insight, decision, trials)


def _scheduler(pod: Pod) -> tuple[str, ...]:
    return (
        (f"kube-scheduler has not bound it yet: {pod.unschedulable}",) if pod.unschedulable else ()
    )


def _patient(about: str, placement: Placement, decision: Decision) -> Answer:
    why = decision.away.get(placement.node) or "its agent is away for the moment"
    text = f"it fits only on {placement.node}, and {why}"
    remedy = Remedy(
        "wait", "the agent comes back; after two minutes the pod is no longer kept for it"
    )
    return Answer(about, State.WAITS, str(Cause.NOT_READY), text, remedies=(remedy,))


def _refused(
    about: str, refusal: Refusal, insight: Insight, decision: Decision, trials: Trials
) -> Answer:
    observed, pod = insight.observed, refusal.pod
    label = "=".join(observed.label)
    text = refusal_text(refusal, label)
    states = {state.node.name: state for state in decision.snapshot.nodes}
    kept = next((r for r in decision.plan.reservations if r.pod.uid == pod.uid), None)
    if kept is not None and kept.node in states:
        text += f"; {reservation_text(kept, states)}"
    wrong = node_states(observed, decision)
    verdicts = [
        replace(v, detail=_more(wrong.get(v.node, ""))) if v.cause is Cause.NOT_READY else v
        for v in trials.verdicts(pod)
    ]
    remedies: tuple[Remedy, ...] = ()
    if refusal.own is None or refusal.own is Cause.GROUP:
        remedies = find_remedies(
            pod, trials, verdicts, observed.layouts or {}, observed.nodes or (), observed.label
        )
    elif refusal.own is Cause.NO_NODE:
        remedies = tuple(handed_over(pod, observed.nodes or (), observed.label))
    if not remedies:
        cause = refusal.own or Cause(refusal.reason)
        remedies = (Remedy("advice", advice.CAUSES[cause]),)
    return Answer(
        about,
        State.WAITS,
        refusal.reason,
        text,
        nodes=tuple(verdicts),
        unjudged=len(trials.states) - len(verdicts),
        queue=queue_place(pod, decision),
        remedies=remedies,
    )


def _more(state: str) -> str:
    """Returns the node's state without the word NotReady, which the cause says already."""
    return state.removeprefix(Cause.NOT_READY).removeprefix(", ")


def queue_place(pod: Pod, decision: Decision) -> QueuePlace | None:
    """The pod's place among those that wait for a slice; None for one that is not in the queue."""
    queue = queued(decision.refused)
    place = next((n for n, r in enumerate(queue) if r.pod.uid == pod.uid), None)
    if place is None:
        return None
    ahead = tuple(
        f"{r.pod.key} ({sizes_text(r.pod)}, priority {r.pod.priority})"
        for r in queue[max(0, place - _AHEAD) : place]
    )
    return QueuePlace(place + 1, len(queue), ahead)


def _as_told(about: str, pod: Pod, now: datetime) -> Answer:
    """Answers by what the planner has written on the pod, for a person who sees nothing else."""
    said = pod.available
    if said is not None:
        on_its_way = said.status or said.reason == "Carving"
        state = State.ON_ITS_WAY if on_its_way else State.WAITS
        helps = advice.of_condition(said.reason)
        remedy = (Remedy("advice", helps),) if helps and state is State.WAITS else ()
        return Answer(about, state, said.reason, said.message, remedies=remedy)
    if pod.created and now - datetime.fromisoformat(pod.created) < EARLY:
        text = "it was created seconds ago, and the planner has written nothing yet"
        return Answer(about, State.ON_ITS_WAY, "New", text)
    text = "the planner has written nothing about it, though it does so within seconds"
    remedy = (
        Remedy(
            "planner",
            "an administrator has to see whether the planner runs",
            "kubectl get pods --all-namespaces --selector=app.kubernetes.io/component=planner",
        ),
    )
    return Answer(about, State.WAITS, "NotPlanned", text, remedies=remedy)


def _conditions(raw: Json) -> Iterator[Told]:
    """Yields what planner and scheduler say; who wrote first is by chance."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    for condition in sorted(conditions, key=lambda each: each.get("type") != AVAILABLE):
        ours = condition.get("type") == AVAILABLE
        unscheduled = (
            condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable"
        )
        if (ours or unscheduled) and condition.get("message"):
            source = f"condition {condition['type']}"
            message = f"{condition.get('reason')}: {condition['message']}"
            yield Told(source, message, str(condition.get("lastTransitionTime") or ""))
