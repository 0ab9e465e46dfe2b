"""What a restart must not forget of a pod's progress, as one small annotation on the pod.

It is written when a pod backs off, when its waiting began later than its creation, when its
reservation begins, before pods are evicted for it, and with a nomination of ours; of a pod whose
group is to be spread over GPUs it names those, too. A pod that just comes and is bound has none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from mpslice.gpus import GpuUuid
from mpslice.progress import LATE, NOMINATED, members
from planner.model.pods import Pod
from planner.model.preemption import Hold
from planner.model.snapshot import Place
from planner.progress.machine import NEW, Phase, Progress

_LONGEST: Final = 300  # characters of somebody else's words
_MOST: Final = 1_000_000  # backoffs; more are somebody else's idea
_NOWADAYS: Final = 2000  # a year; times are at most a thousand years from it
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Note:
    """The annotation as read: `nominated` is the node that we nominated the pod to, or "", and
    `late` says that the pod had lost its gate by then."""

    progress: Progress = NEW
    nominated: str = ""
    late: bool = False


def time_text(moment: datetime) -> str:
    """As Kubernetes writes times: RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime(_FORM)


def note_text(progress: Progress, nominated: str = "", *, late: bool = False) -> str:
    """The annotation, "" where there is nothing to remember.

    Example: `{"backoff":{"attempts":1,"until":"2026-01-01T12:00:10Z","words":"…"}}`.
    """
    said: dict[str, Any] = {}
    if progress.since is not None:
        said["since"] = time_text(progress.since)
    if progress.reserving is not None:
        said["reserving"] = time_text(progress.reserving)
    if (hold := progress.preempting) is not None:
        said["preempting"] = {
            "node": hold.node,
            "gpus": list(hold.gpus),
            "until": time_text(hold.until),
        }
    if nominated:
        said[NOMINATED] = nominated
        if late:
            said[LATE] = True
        if progress.gpus:
            said["gpus"] = list(progress.gpus)
    if progress.backs_off and progress.until is not None:
        said["backoff"] = {
            "attempts": progress.attempts,
            "until": time_text(progress.until),
            **({"avoided": list(progress.avoided)} if progress.avoided else {}),
            "words": progress.words[:_LONGEST],
        }
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False) if said else ""


def read_note(text: str) -> Note:
    """What an earlier planner wrote; text that is not ours says nothing."""
    said = members(text)
    try:
        backoff = said.get("backoff") or {}
        progress = Progress(
            since=_time(said, "since"),
            reserving=_time(said, "reserving"),
            preempting=_hold(said.get("preempting")),
            gpus=tuple(GpuUuid(str(uuid)) for uuid in said.get("gpus") or ()),
        )
        if backoff:
            progress = replace(
                progress,
                phase=Phase.BACKOFF,
                until=_needed(backoff),
                attempts=min(max(1, int(backoff["attempts"])), _MOST),
                avoided=tuple(str(node) for node in backoff.get("avoided") or ()),
                words=str(backoff.get("words") or "")[:_LONGEST],
            )
        return Note(progress, str(said.get(NOMINATED) or ""), said.get(LATE) is True)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return Note()


def _needed(backoff: Mapping[str, Any]) -> datetime:
    until = _time(backoff, "until")
    if until is None:
        raise ValueError("a pause without an end")
    return until


def _hold(said: Mapping[str, Any] | None) -> Hold | None:
    until = _time(said, "until") if said else None
    if not said or until is None:
        return None
    gpus = tuple(GpuUuid(str(uuid)) for uuid in said["gpus"])
    return Hold(str(said["node"]), gpus, until)


def kept_place(pod: Pod) -> Place | None:
    """The place that a pod of a spread group keeps until it is bound; None if it has none.

    Not where it was refused, nor once kube-scheduler has nominated it elsewhere by itself.
    """
    note = read_note(pod.progress) if pod.spread and pod.progress else Note()
    node, gpus = note.nominated, note.progress.gpus
    if not (node and gpus) or node in pod.avoid or pod.nominated not in ("", node):
        return None
    return node, gpus


def _time(said: Mapping[str, Any], key: str) -> datetime | None:
    """The time; raises ValueError for other text, and for a year that sums of times may leave."""
    if not (text := said.get(key)):
        return None
    moment = datetime.strptime(text, _FORM).replace(tzinfo=UTC)
    if abs(moment.year - _NOWADAYS) > 1000:
        raise ValueError(f"{text} is more than a thousand years away")
    return moment


def wanted_note(pod: Pod, progress: Progress, nominated: str, *, late: bool = False) -> str:
    """The text that the pod's annotation should have.

    A backoff that is over stays written: its number goes on counting, and to delete it would be a
    write although nothing happened.
    """
    before = read_note(pod.progress)
    if not progress.backs_off and before.progress.backs_off:
        kept = before.progress
        progress = replace(
            kept,
            since=progress.since,
            reserving=progress.reserving,
            preempting=progress.preempting,
            gpus=progress.gpus,
        )
    return note_text(progress, nominated, late=late)
