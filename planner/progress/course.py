"""The progress of all pods from one decision to the next: before the plan is made, and after."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from planner.model.plan import Cause, Placement, Refusal, Reservation
from planner.model.pods import Group, Pod
from planner.model.preemption import Hold, Preemption
from planner.packing.order import group_minimum
from planner.progress.machine import (
    Progress,
    Refused,
    back_off,
    by_clock,
    carve,
    elapse,
    next_deadline,
    offer,
    wait,
)
from planner.progress.note import read_note, time_text

CLAIM_GRACE: Final = timedelta(seconds=2)
"""How long a pod's claim may be missing: the watch of claims may be slower than that of pods."""

ENDING: Final = timedelta(seconds=60)
"""How much longer than their grace period pods may take to end that are evicted for another."""

_LATE: Final = timedelta(seconds=30)
"""A start of waiting that is so much later than the creation is worth an annotation."""


@dataclass(frozen=True, slots=True)
class Course:
    """The progress by pod uid, and the nodes that let the deadline of a carve pass."""

    every: Mapping[str, Progress]
    overdue: frozenset[str] = frozenset()

    def reserving(self, pods: Iterable[Pod]) -> dict[str, datetime]:
        """When reservations began, by pod uid and group key; of a group the earliest counts."""
        found: dict[str, datetime] = {}
        for pod in pods:
            progress = self.every.get(pod.uid)
            if progress is not None and progress.reserving is not None:
                found[pod.uid] = progress.reserving
                if key := pod.group_key:
                    found[key] = min(progress.reserving, found.get(key, progress.reserving))
        return found

    def preempting(self) -> dict[str, Hold]:
        """Where pods wait for others to end that are evicted for them, by uid."""
        return {u: p.preempting for u, p in self.every.items() if p.preempting is not None}

    def may_preempt(self, pod: Pod) -> bool:
        """Whether others may be evicted for the pod, if nothing else helps.

        Not for one that was refused where it was planned, which might be so again; nor for one that
        kube-scheduler may yet bind, or preempts for.
        """
        progress = self.every.get(pod.uid)
        tried = progress is not None and bool(progress.attempts or progress.avoided)
        seen = pod.gated or bool(pod.unschedulable)
        theirs = pod.nominated and pod.nominated != read_note(pod.progress).nominated
        return seen and not (tried or theirs)

    def backs_off(self, pod: Pod) -> bool:
        progress = self.every.get(pod.uid)
        return progress is not None and progress.backs_off

    def as_planned(self, pod: Pod) -> Pod:
        """The pod as the plan has to see it: nodes that refused it, and when its waiting began."""
        progress = self.every.get(pod.uid)
        if progress is None or not (progress.avoided or progress.since):
            return pod
        since = time_text(progress.since) if progress.since else pod.since
        return replace(pod, avoid=pod.avoid.union(progress.avoided), since=since)


def begin(
    pods: Iterable[Pod],
    known: Mapping[str, Progress],
    freed: Mapping[str, datetime],
    refused: Mapping[str, Refused],
    now: datetime,
) -> Course:
    """The progress of every pending pod once the deadlines that have passed are taken account of.

    `known` is what the last decision left; a pod that is not in it has what its annotation says.
    `freed` is when other people's gates went, `refused` which gates could not be taken away.
    """
    every: dict[str, Progress] = {}
    overdue: set[str] = set()
    for pod in pods:
        if not pod.is_pending:
            continue
        before = known.get(pod.uid)
        if before is None:
            before = _noted(pod)
            before = replace(before, since=before.since or _since(pod, freed.get(pod.uid)))
        before = by_clock(before, now)
        every[pod.uid], late = elapse(before, pod, refused.get(pod.uid), now)
        if late:
            overdue.add(late)
    return Course(every, frozenset(overdue))


def _noted(pod: Pod) -> Progress:
    """What the pod's annotation says; a hold of another number of GPUs than it has slices is not
    one of ours."""
    noted = read_note(pod.progress).progress
    hold = noted.preempting
    if hold is not None and len(hold.gpus) != len(pod.seats):
        return replace(noted, preempting=None)
    return noted


def _since(pod: Pod, freed: datetime | None) -> datetime | None:
    if freed is None or not pod.created:
        return None
    return freed if freed - datetime.fromisoformat(pod.created) > _LATE else None


@dataclass(slots=True)
class Turns:
    """The pending pods: those to be planned, and why the others are not."""

    planned: list[Pod] = field(default_factory=list)
    resting: list[Refusal] = field(default_factory=list)


def whose_turn(pods: Sequence[Pod], course: Course, groups: Mapping[str, Group]) -> Turns:
    """Leaves out what backs off, and what could not run if it had a slice.

    A group of which a member is left out and that does not run yet is left out as a whole.
    """
    turns = Turns()
    out: dict[str, Refusal] = {}
    for pod in pods:
        refusal = _resting(pod, course)
        if refusal is not None:
            out[pod.uid] = refusal
    stuck: dict[str, Refusal] = {}
    if out:
        members: dict[str, list[Pod]] = {}
        for pod in pods:
            if pod.group:
                members.setdefault(pod.group_key, []).append(pod)
        for refusal in out.values():
            key = refusal.pod.group_key
            group = groups.get(key, Group())
            if key and group.there < group_minimum(members[key], group):
                stuck[key] = refusal
    for pod in pods:
        if pod.uid in out:
            turns.resting.append(out[pod.uid])
        elif pod.group_key in stuck:
            other = stuck[pod.group_key]
            note = f"pod {other.pod.name} of group {pod.group} cannot go: {other.note}"
            turns.resting.append(Refusal(pod, (), own=Cause.GROUP, note=note))
        else:
            turns.planned.append(pod)
    return turns


def _resting(pod: Pod, course: Course) -> Refusal | None:
    progress = course.every.get(pod.uid)
    if progress is not None and progress.backs_off and progress.until is not None:
        note = f"{progress.words}; tried again at {time_text(progress.until)}"
        return Refusal(pod, (), own=Cause.BACKOFF, note=note)
    if pod.volume_problem:
        return Refusal(pod, (), own=Cause.VOLUME, note=pod.volume_problem)
    return None


def settle(
    course: Course,
    offered: Iterable[Placement],
    waiting: Iterable[Placement],
    missing: Collection[str],
    refused: Iterable[Refusal],
    reservations: Iterable[Reservation],
    preemptions: Iterable[Preemption],
    now: datetime,
) -> dict[str, Progress]:
    """The progress that the plan leads to.

    `offered` can be bound now; `waiting` cannot, and of those whose uid is `missing` the slices
    do not stand yet. The others wait for their group.
    """
    every = dict(course.every)
    offered, waiting = tuple(offered), tuple(waiting)
    placed = (*offered, *waiting)
    for placement in offered:
        uid = placement.pod.uid
        every[uid] = offer(every[uid], placement.pod, placement.node, now)
    for placement in waiting:
        uid = placement.pod.uid
        every[uid] = carve(every[uid], placement.node, now, missing=uid in missing)
    for refusal in refused:
        uid = refusal.pod.uid
        every[uid] = _without_place(every[uid], refusal, now)
    for reservation in reservations:
        uid = reservation.pod.uid
        if uid in every and every[uid].reserving is None and reservation.since is not None:
            every[uid] = replace(every[uid], reserving=now.replace(microsecond=0))
    holds = {p.pod.uid: _hold(p, every[p.pod.uid].preempting, now) for p in preemptions}
    for uid, hold in [*holds.items()]:
        if now >= hold.until and not every[uid].backs_off:
            words = f"pods that it preempts on {hold.node} have not ended in time"
            every[uid] = back_off(every[uid], now, words)
            del holds[uid]
    for uid, node, gpus in ((p.pod.uid, p.node, p.gpus) for p in placed):
        before = every[uid].preempting
        if before is not None and (before.node, before.gpus) == (node, gpus):
            holds[uid] = before  # until it is bound nobody takes its place
    for uid, progress in every.items():
        if progress.preempting is not None or uid in holds:
            every[uid] = replace(progress, preempting=holds.get(uid))
    return every


def with_places(
    every: Mapping[str, Progress], placements: Iterable[Placement]
) -> dict[str, Progress]:
    """The progress in which pods of spread groups have the GPUs of their places, and no others."""
    gpus = {p.pod.uid: p.gpus for p in placements if p.pod.spread}
    found = dict(every)
    for uid, progress in every.items():
        if progress.gpus != gpus.get(uid, ()):
            found[uid] = replace(progress, gpus=gpus.get(uid, ()))
    return found


def _hold(preemption: Preemption, before: Hold | None, now: datetime) -> Hold:
    """Where and until when the pod waits; the time begins anew while pods are still to be evicted
    that would not end before it is over. It is never longer than it would be from now on: a clock
    that was ahead may have left a moment that is far away.
    """
    ending = (*preemption.victims, *preemption.ending)
    grace = timedelta(seconds=max((pod.grace for pod in ending), default=0))
    until = now.replace(microsecond=0) + grace + ENDING
    there = preemption.node, preemption.gpus
    stays = before is not None and (before.node, before.gpus) == there
    if before is not None and stays and (not preemption.victims or before.until >= now + grace):
        return replace(before, until=min(before.until, until))
    return Hold(*there, until)


def _without_place(progress: Progress, refusal: Refusal, now: datetime) -> Progress:
    if progress.backs_off:
        return progress
    progress = wait(progress)
    blamed = refusal.own is Cause.GROUP or any(c is Cause.AVOIDED for c, _ in refusal.causes)
    if not (progress.avoided and blamed):
        return progress
    nodes = ", ".join(progress.avoided)
    return back_off(progress, now, f"refused on {nodes}: {progress.words}", again=True)


__all__ = ["Course", "Turns", "begin", "next_deadline", "settle", "whose_turn", "with_places"]
