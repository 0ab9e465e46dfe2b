"""The planner's Events: each thing is told once, however often it is decided.

Of a pod at most once a minute, unless the cause changes; what changed meanwhile is told after it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from planner.decide import Decision
from planner.model import Pod, Refusal
from planner.words.explain import placement_text, refusal_text, reservation_text

AGAIN: Final = 60.0
"""Seconds until other words about the same cause are told."""

_LATER: Final = 1.0  # seconds until what could not be recorded is told again


@dataclass(frozen=True, slots=True)
class _Story:
    """What there is to tell of a pod. `facts` change with the text, which is made when needed."""

    pod: Pod
    type: EventType
    reason: str
    cause: str
    facts: object
    text: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Told:
    cause: str
    facts: object
    at: float


class Storyteller:
    """Remembers what each pending pod was told, and forgets pods that are pending no more."""

    def __init__(self, recorder: EventRecorder, label: tuple[str, str]) -> None:
        self._recorder = recorder
        self._label = "=".join(label)
        self._told: dict[str, _Told] = {}
        self._told_of_nodes: dict[tuple[str, str], str] = {}
        self.due: float | None = None
        """When `tell` has to be called again, though nothing changed."""

    def tell(self, decision: Decision, *, now: float) -> None:
        """Records the Events of a decision; `now` in seconds on any steady clock."""
        self.due = None if self._tell_of_nodes(decision) else now + _LATER
        live: set[str] = set()
        for story in self._stories(decision):
            live.add(story.pod.uid)
            wait = self._tell(story, now)
            if wait is not None:
                self.due = wait if self.due is None else min(self.due, wait)
        # What is told next is still within the minute of a pod that had a place in between.
        live.update(placement.pod.uid for placement in decision.plan.placements)
        self._told = {uid: told for uid, told in self._told.items() if uid in live}

    def _stories(self, decision: Decision) -> Iterator[_Story]:
        states = {state.node.name: state for state in decision.snapshot.nodes}
        for placement in decision.carving:
            yield _Story(
                placement.pod,
                EventType.NORMAL,
                "SliceCarving",
                "SliceCarving",
                (placement.node, placement.gpus),
                partial(placement_text, placement, states),
            )
        kept = {r.pod.key: r for r in decision.plan.reservations if r.node in states}
        for refusal in decision.refused:
            kept_for_it = kept.get(refusal.pod.key)
            where = reservation_text(kept_for_it, states) if kept_for_it else ""
            yield _Story(
                refusal.pod,
                EventType.WARNING,
                "SliceUnavailable",
                f"{refusal.reason} {bool(where)}",  # that a GPU is kept for it is news
                (refusal.causes, refusal.hole, refusal.note, where),
                partial(self._refusal_text, refusal, where),
            )

    def _refusal_text(self, refusal: Refusal, where: str) -> str:
        text = refusal_text(refusal, self._label)
        return f"{text}; {where}" if where else text

    def _tell(self, story: _Story, now: float) -> float | None:
        """Tells it if it is time to; returns when to try again, None when all is told."""
        told = self._told.get(story.pod.uid)
        if told and told.cause == story.cause:
            if told.facts == story.facts:
                return None
            if now < told.at + AGAIN:
                return told.at + AGAIN
        pod = story.pod
        about = ObjectRef("v1", "Pod", pod.name, pod.namespace, pod.uid)
        if not self._recorder.record(about, story.type, story.reason, story.text()):
            return now + _LATER
        self._told[pod.uid] = _Told(story.cause, story.facts, now)
        return None

    def _tell_of_nodes(self, decision: Decision) -> bool:
        """A Warning on each node that is left alone, again only once it was well in between.

        Whether all of them could be recorded.
        """
        problems = {
            (node, "NodeSetAside"): f"{problem}; its GPUs are not planned on"
            for node, problem in decision.snapshot.set_aside.items()
        }
        for node, problem in decision.unreadable.items():
            problems[node, "UnreadableLayout"] = f"{problem}; the node is left as it is"
        for node, problem in decision.away.items():
            problems[node, "NodeAgentAway"] = (
                f"{problem}; pods are placed elsewhere. See `kubectl describe nodelayout {node}`"
            )
        self._told_of_nodes = {
            key: told for key, told in self._told_of_nodes.items() if problems.get(key) == told
        }
        for (node, reason), message in problems.items():
            if (node, reason) not in self._told_of_nodes:
                # The kubelet's Events use the name as uid; `kubectl describe node` looks for that.
                about = ObjectRef("v1", "Node", node, uid=node)
                if self._recorder.record(about, EventType.WARNING, reason, message):
                    self._told_of_nodes[node, reason] = message
        return self._told_of_nodes.keys() == problems.keys()
