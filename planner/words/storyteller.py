"""The planner's Events: each thing is told once, however often it is decided.

While it lasts it is told again before its Event expires. Of a pod at most once a minute, unless the
cause changes; what changed meanwhile is told after it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from planner.model.plan import Refusal
from planner.model.pods import Pod
from planner.quarantine import ASIDE, Aside
from planner.view import Decision
from planner.words.explain import placement_text, refusal_text, reservation_text, sizes_text
from planner.writes.actions import Evict

AGAIN: Final = 60.0
"""Seconds until other words about the same cause are told."""

REPEAT: Final = 1800.0
"""Seconds until the same is told again: an API server keeps an Event for an hour (--event-ttl)."""

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


def tell_evicted(recorder: EventRecorder, action: Evict) -> None:
    """An Event on a pod that was evicted, by the reason that kube-scheduler's victims have."""
    pod, by = action.pod, action.by
    about = ObjectRef("v1", "Pod", pod.name, pod.namespace, pod.uid)
    text = (
        f"evicted from {pod.node} for pod {by.key}, whose priority is {by.priority} "
        f"(this pod's is {pod.priority}): its {sizes_text(pod)} makes room for {sizes_text(by)}"
    )
    recorder.record(about, EventType.NORMAL, "Preempted", text)


def tell_set_aside(recorder: EventRecorder, aside: Aside) -> None:
    """An Event on a pod that the planner could make no decision with."""
    pod = aside.pod
    about = ObjectRef("v1", "Pod", pod.name, pod.namespace, pod.uid)
    text = (
        f"the planner met an error of its own with this pod ({aside.words}) and plans without it "
        f"and all like it for {ASIDE / 60:.0f} minutes; please report it"
    )
    recorder.record(about, EventType.WARNING, "SetAside", text)


class Storyteller:
    """Remembers what each pending pod was told, and forgets pods that are pending no more."""

    def __init__(self, recorder: EventRecorder, label: tuple[str, str]) -> None:
        self._recorder = recorder
        self._label = "=".join(label)
        self._told: dict[str, _Told] = {}
        self._told_of_nodes: dict[tuple[str, str], _Told] = {}
        self.due: float | None = None
        """When `tell` has to be called again with the newest decision, though nothing changed."""

    def tell(self, decision: Decision, *, now: float) -> None:
        """Records the Events of a decision; `now` in seconds on any steady clock."""
        dues = self._tell_of_nodes(decision, now)
        live: set[str] = set()
        for story in self._stories(decision):
            live.add(story.pod.uid)
            dues.append(self._tell(story, now))
        self.due = min(dues, default=None)
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

    def _tell(self, story: _Story, now: float) -> float:
        """Tells it if it is time to; returns when that will be the next time."""
        told = self._told.get(story.pod.uid)
        if told and told.cause == story.cause:
            due = told.at + (REPEAT if told.facts == story.facts else AGAIN)
            if now < due:
                return due
        pod = story.pod
        about = ObjectRef("v1", "Pod", pod.name, pod.namespace, pod.uid)
        if not self._recorder.record(about, story.type, story.reason, story.text()):
            return now + _LATER
        self._told[pod.uid] = _Told(story.cause, story.facts, now)
        return now + REPEAT

    def _tell_of_nodes(self, decision: Decision, now: float) -> list[float]:
        """A Warning on each node that is left alone, at once again if it was well in between.

        Returns when each is to be told next.
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
            key: told
            for key, told in self._told_of_nodes.items()
            if problems.get(key) == told.facts
        }
        return [self._tell_of_node(*key, problem, now) for key, problem in problems.items()]

    def _tell_of_node(self, node: str, reason: str, problem: str, now: float) -> float:
        told = self._told_of_nodes.get((node, reason))
        if told and now < told.at + REPEAT:
            return told.at + REPEAT
        # The kubelet's Events use the name as uid; `kubectl describe node` looks for that.
        about = ObjectRef("v1", "Node", node, uid=node)
        if not self._recorder.record(about, EventType.WARNING, reason, problem):
            return now + _LATER
        self._told_of_nodes[node, reason] = _Told(reason, problem, now)
        return now + REPEAT
