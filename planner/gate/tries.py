"""Pods that were given a slice and are still not bound: where else they are to be tried.

Feasibility leaves volumes and what else only the scheduler knows to the scheduler, so its answer is
the only way to learn that a node was wrong. Kept in memory: a restart only delays. Pure; time is
passed in.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from planner.model import Placement, Pod, Refusal

PATIENCE: Final = 5.0
"""Seconds after the scheduler's no: it may have looked before it knew of the slice."""

SILENCE: Final = 30.0
"""Seconds without any answer; a pod that failed before waits 10 s for its turn (kube-scheduler's
podMaxBackoffSeconds), and a no like the one before is not seen again."""

TRIES: Final = 2


@dataclass(slots=True)
class _Try:
    node: str
    since: float
    known: str  # what the scheduler had said of the pod before
    heard: float | None = None


@dataclass(slots=True)
class Tries:
    """Counts, by pod, how often a node was tried in vain."""

    patience: float = PATIENCE
    silence: float = SILENCE
    _under_way: dict[str, _Try] = field(default_factory=dict)
    _failed: dict[str, Counter[str]] = field(default_factory=dict)

    def begin_term(self) -> None:
        """Somebody else may have decided meanwhile: what is under way is tried from now on."""
        self._under_way.clear()

    def avoided(self, pod: Pod) -> frozenset[str]:
        """The nodes that the pod is not to be planned on."""
        failed = self._failed.get(pod.uid)
        if not failed:
            return frozenset()
        return frozenset(node for node, count in failed.items() if count >= TRIES)

    def watch(self, standing: Iterable[Placement], now: float) -> bool:
        """Takes note of pods that the scheduler could bind now; whether a node is newly avoided.

        `standing` are placements whose slices are bindable and whose pods have no gate.
        """
        under_way: dict[str, _Try] = {}
        news = False
        for placement in standing:
            pod = placement.pod
            going = self._under_way.get(pod.uid)
            if going is None or going.node != placement.node:
                going = _Try(placement.node, now, pod.unschedulable)
            elif pod.unschedulable != going.known and going.heard is None:
                going.heard = now
            if now >= self._end(going):
                news |= self._fail(pod.uid, placement.node)
                # A no that stands is an answer to the next try, too.
                going = _Try(placement.node, now, "", now if pod.unschedulable else None)
            under_way[pod.uid] = going
        self._under_way = under_way
        return news

    def _end(self, going: _Try) -> float:
        end = going.since + self.silence
        return end if going.heard is None else min(end, going.heard + self.patience)

    def _fail(self, uid: str, node: str) -> bool:
        failed = self._failed.setdefault(uid, Counter())
        failed[node] += 1
        return failed[node] == TRIES

    def give_up(self, refused: Iterable[Refusal]) -> bool:
        """Forgets the failures of pods that fit nowhere else; whether there were any."""
        found = [refusal.pod.uid for refusal in refused if self.avoided(refusal.pod)]
        for uid in found:
            del self._failed[uid]
        return bool(found)

    def forget(self, uid: str) -> None:
        """The pod is bound or gone."""
        self._failed.pop(uid, None)
        self._under_way.pop(uid, None)

    def follows(self, uid: str) -> bool:
        """Whether what the scheduler says of the pod matters now."""
        return uid in self._under_way

    def due(self) -> float | None:
        """When `watch` has to be asked again, on the clock that it was given."""
        return min(map(self._end, self._under_way.values()), default=None)
