"""A pod's way to its slice as one state machine. Pure; the wall clock is passed in.

| from    | to      | when                                                                       |
| ------- | ------- | -------------------------------------------------------------------------- |
| Pending | Carving | the plan has a place for the pod, and slices of it are missing there       |
| Pending | Offered | the plan has a place for the pod, and its slices are bindable there        |
| Pending | Backoff | only nodes are left that have refused the pod, or as from Offered for the  |
|         |         | gate of a pod without a place, or pods that it preempts have not ended in  |
|         |         | time                                                                       |
| Carving | Carving | the plan moves the pod to another node                                     |
| Carving | Offered | its slices are bindable                                                    |
| Carving | Pending | it lost its place, or CARVE seconds have passed: the node is passed over   |
| Offered | Offered | the plan moves the pod to another node where its slices are bindable       |
| Offered | Carving | slices of it are missing again                                             |
| Offered | Pending | it lost its place, or kube-scheduler has refused it there                  |
| Offered | Backoff | kube-scheduler has refused it on TRIES nodes or for all nodes at once, or  |
|         |         | the API server has refused to take the gate away                           |
| Backoff | Pending | its time is over, or what kube-scheduler objected to is gone               |
| Backoff | Backoff | its time is over, and kube-scheduler still refuses the pod for all nodes   |

A pod in Backoff holds nothing: it is not planned at all. Bound is the end: the record is dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from mpslice.gpus import GpuUuid
from planner.model.pods import Pod
from planner.model.preemption import Hold

CARVE: Final = timedelta(seconds=30)
"""How long slices may be missing where a pod is planned, which agents make in milliseconds."""

PATIENCE: Final = timedelta(seconds=10)
"""How long a refusal of kube-scheduler stands before it counts: it may have looked before it knew
of the slice, and looks again within podMaxBackoffSeconds, which is 10 by default."""

SILENCE: Final = timedelta(seconds=30)
"""How long a pod whose slice is bindable may stay without a node and without an answer: a refusal
in the same words as the one before is not written again."""

TRIES: Final = 3
"""Nodes that may refuse a pod before it backs off."""

GATE_REFUSALS: Final = 10
"""Refusals to take a gate away until the pod backs off the first time; then the first is enough."""

FIRST_BACKOFF: Final = timedelta(seconds=10)
LONGEST_BACKOFF: Final = timedelta(minutes=5)

RENOMINATE: Final = timedelta(seconds=1)
_NOMINATIONS: Final = 4
"""At most so many in that time: kube-scheduler clears the nomination of a pod that finds no place
then, and each change of one has it try others again."""

_REMEMBERED: Final = 16  # avoided nodes: an annotation is to stay small
_EVERYWHERE: Final = re.compile(r"0/\d+ nodes are available: (?!\d+ )")


class Phase(StrEnum):
    """Where a pod stands on its way to a slice."""

    PENDING = "Pending"
    CARVING = "Carving"
    OFFERED = "Offered"
    BACKOFF = "Backoff"


LEGAL: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.PENDING, Phase.CARVING, Phase.OFFERED, Phase.BACKOFF}),
    Phase.CARVING: frozenset({Phase.CARVING, Phase.OFFERED, Phase.PENDING}),
    Phase.OFFERED: frozenset({Phase.OFFERED, Phase.CARVING, Phase.PENDING, Phase.BACKOFF}),
    Phase.BACKOFF: frozenset({Phase.BACKOFF, Phase.PENDING}),
}
"""The table above."""


class IllegalStep(Exception):
    """The table has no such step; the planner has an error."""


@dataclass(frozen=True, slots=True)
class Refused:
    """How often the API server refused to take a pod's gate away, and its last words."""

    count: int
    words: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a pod that waits for a slice.

    `node` is where it is carved for or offered, `until` the deadline of the phase, None without
    one. `verdict` is what kube-scheduler had said when the pod was offered, `heard` whether it has
    said anything else since. `avoided` are nodes that refused the pod, `tried` how many of them did
    since it last backed off. `attempts` counts its backoffs, `words` is why it backed off last,
    `gate_refusals` how many there had been of its gate by then. `nominations` counts those since
    `nominated`, in a time of RENOMINATE.
    `entered` is when it came to be carved for, or to be offered its slices. `since` is when its
    waiting began, where that was later than its creation; `reserving` when its reservation did;
    `preempting` is where it waits for pods to end that are evicted for it. `gpus` are those of its
    place, by seat, if its group is to be spread.
    """

    phase: Phase = Phase.PENDING
    node: str = ""
    until: datetime | None = None
    verdict: str = ""
    heard: bool = False
    avoided: tuple[str, ...] = ()
    tried: int = 0
    attempts: int = 0
    words: str = ""
    gate_refusals: int = 0
    nominated: datetime | None = None
    nominations: int = 0
    entered: datetime | None = None
    since: datetime | None = None
    reserving: datetime | None = None
    preempting: Hold | None = None
    gpus: tuple[GpuUuid, ...] = ()

    @property
    def backs_off(self) -> bool:
        return self.phase is Phase.BACKOFF


NEW: Final = Progress()


def _step(progress: Progress, phase: Phase, **changes: object) -> Progress:
    if phase not in LEGAL[progress.phase]:
        raise IllegalStep(f"a pod cannot go from {progress.phase} to {phase}")
    blank = replace(
        progress, phase=phase, node="", until=None, verdict="", heard=False, entered=None
    )
    return replace(blank, **changes)  # type: ignore[arg-type]  # the record's own fields


def refuses_everywhere(verdict: str) -> bool:
    """Whether kube-scheduler refuses the pod for a reason of its own rather than of single nodes.

    Reasons of nodes begin with their number, as in `0/3 nodes are available: 3 Insufficient cpu.`;
    what a PreFilter plugin said does not, as in `0/3 nodes are available: persistentvolumeclaim
    "data" not found.` (pkg/scheduler/framework/types.go, FitError.Error).
    """
    return _EVERYWHERE.match(verdict) is not None


def wait(progress: Progress) -> Progress:
    """The pod has no place."""
    return progress if progress.phase is Phase.PENDING else _step(progress, Phase.PENDING)


def carve(progress: Progress, node: str, now: datetime, *, missing: bool) -> Progress:
    """The pod has a place on the node; its own slices are `missing`, or its group's."""
    there = progress.phase is Phase.CARVING and progress.node == node
    if there and missing == (progress.until is not None):
        return progress
    until = now + CARVE if missing else None
    entered = _entered(progress, Phase.CARVING, now)
    return _step(progress, Phase.CARVING, node=node, until=until, entered=entered)


def offer(progress: Progress, pod: Pod, node: str, now: datetime) -> Progress:
    """The pod's slices are bindable on the node; the time counts once its gate is gone."""
    there = progress.phase is Phase.OFFERED and progress.node == node
    if there and (progress.until is not None or pod.gated):
        return progress
    entered = _entered(progress, Phase.OFFERED, now)
    if pod.gated:
        verdict = pod.unschedulable
        return _step(progress, Phase.OFFERED, node=node, verdict=verdict, entered=entered)
    standing = refuses_everywhere(pod.unschedulable)
    until = now + (PATIENCE if standing else SILENCE)
    return _step(
        progress,
        Phase.OFFERED,
        node=node,
        until=until,
        verdict=pod.unschedulable,
        heard=standing,
        entered=entered,
    )


def _entered(progress: Progress, phase: Phase, now: datetime) -> datetime:
    return (progress.entered if progress.phase is phase else None) or now


def back_off(progress: Progress, now: datetime, words: str, *, again: bool = False) -> Progress:
    """The pod holds nothing for a while, twice as long as the last time. `again`: every node has
    refused it, so that it may be tried on all of them the next time.
    """
    return _step(
        progress,
        Phase.BACKOFF,
        until=now.replace(microsecond=0) + _pause(progress.attempts),
        avoided=() if again else progress.avoided,
        tried=0,
        attempts=progress.attempts + 1,
        words=words,
    )


def _pause(attempts: int) -> timedelta:
    """How long a pod backs off that has done so as often."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * float(2 ** min(max(attempts, 0), 8)))


def by_clock(progress: Progress, now: datetime) -> Progress:
    """The progress without moments that are still to come by the clock that is read now.

    A clock that was ahead, this one or another replica's, leaves moments that are still to come and
    deadlines further away than a phase lasts. The pod would wait for as long as it was wrong.
    """
    moments = {
        "nominated": progress.nominated,
        "entered": progress.entered,
        "since": progress.since,
        "reserving": progress.reserving,
    }
    late = {
        name: now.replace(microsecond=0)
        for name, moment in moments.items()
        if moment is not None and moment > now
    }
    latest = now + _longest(progress)
    if progress.until is not None and progress.until > latest:
        late["until"] = latest
    return replace(progress, **late) if late else progress  # type: ignore[arg-type]  # its own


def _longest(progress: Progress) -> timedelta:
    """How long the phase lasts at most."""
    match progress.phase:
        case Phase.BACKOFF:
            return _pause(progress.attempts - 1)
        case Phase.CARVING:
            return CARVE
        case _:
            return SILENCE


def elapse(
    progress: Progress, pod: Pod, refused: Refused | None, now: datetime
) -> tuple[Progress, str]:
    """What time, kube-scheduler and the API server make of the pod before it is planned anew.

    Returns the node that has let its deadline for a carve pass as well, "" mostly.
    """
    over = progress.until is not None and now >= progress.until
    match progress.phase:
        case Phase.CARVING if over:
            return _step(progress, Phase.PENDING), progress.node
        case Phase.OFFERED | Phase.PENDING if pod.gated:
            # Its time counts once its gate is gone: a write that failed seemed to have taken it.
            if progress.until is not None:
                progress = replace(progress, until=None)
            return _gate(progress, refused, now), ""
        case Phase.OFFERED:
            progress = _hear(progress, pod, now)
            over = progress.until is not None and now >= progress.until
            return (_refused(progress, pod, now) if over else progress), ""
        case Phase.BACKOFF:
            return _rested(progress, pod, now, over=over), ""
        case _:
            return progress, ""


def _gate(progress: Progress, refused: Refused | None, now: datetime) -> Progress:
    known = progress.gate_refusals
    allowed = known + (1 if progress.attempts else GATE_REFUSALS)
    if refused is None or refused.count < allowed:
        return progress
    words = f"its scheduling gate cannot be taken away: {refused.words}"
    return replace(back_off(progress, now, words), gate_refusals=refused.count)


def _hear(progress: Progress, pod: Pod, now: datetime) -> Progress:
    if progress.heard or progress.until is None or pod.unschedulable in ("", progress.verdict):
        return progress
    until = min(progress.until, now + PATIENCE)
    return replace(progress, verdict=pod.unschedulable, heard=True, until=until)


def _refused(progress: Progress, pod: Pod, now: datetime) -> Progress:
    words = pod.unschedulable or "kube-scheduler has not said anything"
    tried = progress.tried + 1
    if refuses_everywhere(words):
        return back_off(progress, now, words)
    others = (node for node in progress.avoided if node != progress.node)
    avoided = (*others, progress.node)[-_REMEMBERED:]
    progress = replace(progress, avoided=avoided, tried=tried, words=words)
    return back_off(progress, now, words) if tried >= TRIES else _step(progress, Phase.PENDING)


def _rested(progress: Progress, pod: Pod, now: datetime, *, over: bool) -> Progress:
    standing = refuses_everywhere(pod.unschedulable)
    if refuses_everywhere(progress.words) and not standing:
        return _step(progress, Phase.PENDING)  # what it objected to is gone
    if not over:
        return progress
    if standing and not pod.gated and refuses_everywhere(progress.words):
        return back_off(progress, now, pod.unschedulable)
    return _step(progress, Phase.PENDING)


def next_deadline(every: Mapping[str, Progress], now: datetime) -> datetime | None:
    """When the first of the pods has to be looked at though nothing has happened.

    Deadlines that have passed were looked at already: none of them wakes the planner again.
    """
    deadlines = (progress.until for progress in every.values())
    return min((until for until in deadlines if until is not None and until > now), default=None)


def nominated(progress: Progress, now: datetime) -> Progress:
    """The pod is nominated now."""
    if progress.nominated is not None and now < progress.nominated + RENOMINATE:
        return replace(progress, nominations=progress.nominations + 1)
    return replace(progress, nominated=now, nominations=1)


def is_nominated_often(progress: Progress, now: datetime) -> bool:
    """Whether it is too early to write the same nomination again."""
    if progress.nominated is None or progress.nominations < _NOMINATIONS:
        return False
    return now < progress.nominated + RENOMINATE
