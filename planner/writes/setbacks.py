"""What the API server did not take of the planner's writes for pods, and what follows from it."""

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from mpslice.kube.errors import PASSING, ApiError, is_refusal
from planner.progress.machine import Refused
from planner.writes.actions import Action, Evict, Nominate, Ungate

SPARED: Final = timedelta(minutes=1)
"""How long a pod is passed over that the API server has refused to evict."""

FAULTS: Final = 8
"""Answers of 500 and the like until nobody waits for a nomination: with the writer's rests between
them over a second, which a change of etcd's leader takes."""


_UNASKED: Final = "pod updates may not change fields other than "
"""The API server's answer where anything but what it then lists would change, among which gates are
not (ValidatePodUpdate). Since we take away a gate alone, an admission webhook or policy has changed
the rest."""

_CHANGED: Final = re.compile(r"^([-+])\s+(.*\S)", re.MULTILINE)  # in the difference that it shows
_SHOWN: Final = 4  # lines


@dataclass(slots=True)
class Setbacks:
    """Writes that failed, by the uid of their pod, until the pod is bound or ends.

    `unnominable` are pods whose nomination the API server refuses: nobody waits for that. `refused`
    are gates that it kept, `spared` pods that could not be evicted, and until when nobody tries.
    """

    unnominable: set[str] = field(default_factory=set)
    refused: dict[str, Refused] = field(default_factory=dict)
    spared: dict[str, datetime] = field(default_factory=dict)
    _faults: Counter[str] = field(default_factory=Counter)  # at nominations

    def failed(self, action: Action, error: Exception, now: datetime) -> bool:
        """Notes a write that failed; True where the next decision may be another for it."""
        match action:
            case Nominate(pod=pod) if self._is_final(pod.uid, error):
                self.unnominable.add(pod.uid)  # or the others of its size would wait for it
            case Ungate(pod=pod) if is_refusal(error):
                before = self.refused.get(pod.uid)
                self.refused[pod.uid] = Refused(before.count + 1 if before else 1, _words(error))
                return True
            case Evict(pod=pod) if is_refusal(error) or _forbids_eviction(error):
                self.spared[pod.uid] = now + SPARED
                return True
        return False

    def worked(self, action: Action) -> None:
        """Forgets what failed of it before."""
        match action:
            case Ungate(pod=pod):
                self.refused.pop(pod.uid, None)
            case Nominate(pod=pod):
                self._faults.pop(pod.uid, None)

    def spared_by(self, now: datetime) -> dict[str, datetime]:
        """The pods that are still spared, and until when.

        A deadline that a clock set while it was ahead does not count.
        """
        return {uid: until for uid, until in self.spared.items() if until - now <= SPARED}

    def settled(self, uid: str) -> None:
        """The pod waits no more: it is bound, or gone."""
        self.refused.pop(uid, None)
        self.unnominable.discard(uid)
        self._faults.pop(uid, None)

    def gone(self, uid: str) -> None:
        """The pod does not exist any more."""
        self.settled(uid)
        self.spared.pop(uid, None)

    def _is_final(self, uid: str, error: Exception) -> bool:
        """Whether the API server has refused a nomination, rather than been away or in trouble."""
        if is_refusal(error):
            return True
        if not isinstance(error, ApiError) or error.status in PASSING:
            return False
        self._faults[uid] += 1
        return self._faults[uid] >= FAULTS


def _words(error: Exception) -> str:
    """Why a gate was kept, so that whoever reads it knows what to do."""
    text = str(error)
    if _UNASKED not in text:
        return text
    lines = [" ".join(found) for found in _CHANGED.findall(text)]
    more = " …" if len(lines) > _SHOWN else ""
    return (
        "an admission webhook or policy changes more of the pod than was asked for, which the API "
        "server refuses; let it leave updates of pods alone. It changes: "
        f"{' '.join(lines[:_SHOWN])}{more}"
    )


def _forbids_eviction(error: Exception) -> bool:
    """Whether a PodDisruptionBudget forbids it, rather than the API server being busy: both are 429
    (pkg/registry/core/pod/storage/eviction.go, createTooManyRequestsError).
    """
    return isinstance(error, ApiError) and error.status == 429 and "disruption" in str(error)
