"""The pod condition mpslice.io/SliceAvailable: the planner's verdict where `kubectl describe pod`
shows it, long after Events are gone. Pure.

Only a pod that waits longer than a second has it, and it is written rarely: at once when its status
or reason changes, after SOON when its words do, after LATER when only figures and names of nodes
do. That slices are being made or stand is told once it has lasted LASTS: a pod is bound in
milliseconds then, and the writes would hold up those that pods wait for. The place in the queue is
told in steps (1, 3, 10, 30, 100, …), so that a thousand pods that wait are not written a thousand
times when the first of them goes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Refusal, Reservation
from planner.model.pods import Available, Pod
from planner.packing.order import planned_order
from planner.progress.machine import NEW, Progress
from planner.progress.note import time_text
from planner.words.explain import placement_text, refusal_text, reservation_text

AVAILABLE: Final = "mpslice.io/SliceAvailable"
QUEUE: Final = "; in the queue: "
"""What stands before the place in the queue, in the message of a pod that has one."""

LASTS: Final = timedelta(seconds=5)
SOON: Final = timedelta(minutes=1)
LATER: Final = timedelta(minutes=10)

_WAITED: Final = timedelta(seconds=2)  # a second, and the one that a creation time leaves out
_TICK: Final = 10  # seconds: writes that are due within one wake the planner once
_LONGEST: Final = 1024  # characters of a message; the API server takes 32 KiB
_FIGURES: Final = re.compile(r"\d[\d.]*|(?<= on )\S+")
_READY, _CARVING, _BOUND = "SliceReady", "Carving", "Bound"
_PASSING: Final = frozenset({_READY, _CARVING})
_UNQUEUED: Final = frozenset({Cause.BACKOFF, Cause.VOLUME})


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the conditions are made from: the parts of a decision.

    `offered` can be bound now, `carving` waits for its slices, `refused` has no place; `progress`
    by pod uid says since when.
    """

    offered: Sequence[Placement]
    carving: Sequence[Placement]
    refused: Sequence[Refusal]
    reservations: Sequence[Reservation]
    states: Mapping[str, NodeState]
    label: str
    progress: Mapping[str, Progress] = field(default_factory=dict)


def conditions(
    pods: Iterable[Pod], verdicts: Verdicts, now: datetime
) -> tuple[dict[str, Available], datetime | None]:
    """The conditions to write now, by pod uid, and when the next is due."""
    wanted: dict[str, Available] = {}
    dues: list[datetime] = []
    for pod, said in (*_verdicts(verdicts, now), *_of_bound(pods, now)):
        due = _due(pod, said, now)
        entered = verdicts.progress.get(pod.uid, NEW).entered
        if due is not None and entered is not None and said.reason in _PASSING:
            due = max(due, entered + LASTS)
        if due is not None and due <= now:
            wanted[pod.uid] = said
        elif due is not None:
            dues.append(_at_tick(due) if pod.available else due)
    return wanted, min(dues, default=None)


def _verdicts(verdicts: Verdicts, now: datetime) -> Iterator[tuple[Pod, Available]]:
    for placement in verdicts.offered:
        text = placement_text(placement, verdicts.states)
        yield placement.pod, _said(placement.pod, True, _READY, text, now)
    for placement in verdicts.carving:
        text = f"{placement_text(placement, verdicts.states)}: its slices are being made"
        yield placement.pod, _said(placement.pod, False, _CARVING, text, now)
    kept = {r.pod.key: r for r in verdicts.reservations if r.node in verdicts.states}
    queue = enumerate(queued(verdicts.refused), start=1)
    places = {refusal.pod.uid: place for place, refusal in queue}
    for refusal in verdicts.refused:
        pod = refusal.pod
        text = refusal_text(refusal, verdicts.label)
        if pod.key in kept:
            text += f"; {reservation_text(kept[pod.key], verdicts.states)}"
        if pod.uid in places:
            text += QUEUE + place_text(places[pod.uid])
        yield pod, _said(pod, False, refusal.reason, text, now)


def queued(refused: Iterable[Refusal]) -> list[Refusal]:
    """The queue of the pods without a place, in planned order.

    A pod that backs off, or whose volume does not exist, is not in it.
    """
    queue = (refusal for refusal in refused if refusal.own not in _UNQUEUED)
    return sorted(queue, key=lambda refusal: planned_order(refusal.pod))


def _of_bound(pods: Iterable[Pod], now: datetime) -> Iterator[tuple[Pod, Available]]:
    """What was told of a pod while it waited is not true any more once it is bound."""
    for pod in pods:
        before = pod.available
        if before is not None and before.reason != _BOUND and pod.node and not pod.finished:
            yield pod, _said(pod, True, _BOUND, f"bound to {pod.node}", now)


def _said(pod: Pod, status: bool, reason: str, message: str, now: datetime) -> Available:
    before = pod.available
    text = time_text(now)
    changed = before.changed if before is not None and before.status == status else text
    return Available(status, reason, message[:_LONGEST], changed or text, text)


def place_text(place: int) -> str:
    """`first`, or the smallest of 3, 10, 30, 100, … that is not below: `among the first 30`."""
    if place == 1:
        return "first"
    step, factor = 3, 1
    while step * factor < place:
        step, factor = (10, factor) if step == 3 else (3, factor * 10)
    return f"among the first {step * factor}"


def _due(pod: Pod, said: Available, now: datetime) -> datetime | None:
    """When the condition may be written; None when it says what it should."""
    before = pod.available
    if before is None:
        return _time(pod.waits_since) + _WAITED if pod.waits_since else None
    if (before.status, before.reason) != (said.status, said.reason):
        return now
    if before.message == said.message:
        return None
    written = _time(before.written) if before.written else now - LATER
    pause = LATER if _words(before.message) == _words(said.message) else SOON
    return written + pause if written - now < pause else now  # else a clock was ahead


def _words(message: str) -> tuple[str, str]:
    text, _, place = message.partition(QUEUE)
    return _FIGURES.sub("#", text), place


def _at_tick(moment: datetime) -> datetime:
    seconds = -(-moment.timestamp() // _TICK) * _TICK
    return datetime.fromtimestamp(seconds, UTC)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def condition_json(available: Available) -> dict[str, Any]:
    """As Kubernetes writes a PodCondition."""
    return {
        "type": AVAILABLE,
        "status": "True" if available.status else "False",
        "reason": available.reason,
        "message": available.message,
        "lastTransitionTime": available.changed,
        "lastProbeTime": available.written,
    }
