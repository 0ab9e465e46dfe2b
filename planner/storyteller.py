"""The planner's Events on pods: each thing is told once, however often it is decided."""

from dataclasses import dataclass
from typing import Final

from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from planner.decide import Decision
from planner.explain import placement_text, refusal_text
from planner.model import Pod

_AGAIN: Final = 60.0  # seconds until the same causes with other counts are told again


@dataclass(frozen=True, slots=True)
class _Told:
    topic: object  # a change of topic is told at once
    message: str
    at: float


class Storyteller:
    """Remembers what each pending pod was told, and forgets pods that are pending no more."""

    def __init__(self, recorder: EventRecorder, label: tuple[str, str]) -> None:
        self._recorder = recorder
        self._label = "=".join(label)
        self._told: dict[str, _Told] = {}
        self._told_of_nodes: dict[tuple[str, str], str] = {}

    def tell(self, decision: Decision, *, now: float) -> None:
        """Records the Events of a decision; `now` in seconds on any steady clock."""
        for node, problem in decision.snapshot.set_aside.items():
            self.tell_of_node(node, "NodeSetAside", f"{problem}; its GPUs are not planned on")
        live: set[str] = set()
        for placement in decision.carving:
            pod = placement.pod
            live.add(pod.uid)
            text = placement_text(placement, decision.snapshot)
            self._say(pod, EventType.NORMAL, "SliceCarving", text, (placement.node,), now)
        for refusal in decision.refused:
            pod = refusal.pod
            live.add(pod.uid)
            topic = tuple(cause for cause, _ in refusal.causes)
            text = refusal_text(refusal, self._label)
            self._say(pod, EventType.WARNING, "SliceUnavailable", text, topic, now)
        self._told = {uid: told for uid, told in self._told.items() if uid in live}

    def tell_of_node(self, node: str, reason: str, message: str) -> None:
        """A Warning on the node, once for each thing there is to say of it."""
        if self._told_of_nodes.get((node, reason)) != message:
            # The kubelet's Events use the name as uid, and `kubectl describe node` looks for that.
            about = ObjectRef("v1", "Node", node, uid=node)
            if self._recorder.record(about, EventType.WARNING, reason, message):
                self._told_of_nodes[node, reason] = message

    def _say(
        self, pod: Pod, type_: EventType, reason: str, message: str, topic: object, now: float
    ) -> None:
        told = self._told.get(pod.uid)
        same = told is not None and told.topic == (reason, topic)
        if told and same and (told.message == message or now - told.at < _AGAIN):
            return
        about = ObjectRef("v1", "Pod", pod.name, pod.namespace, pod.uid)
        if self._recorder.record(about, type_, reason, message):
            self._told[pod.uid] = _Told((reason, topic), message, now)
