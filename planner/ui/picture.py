"""What the page shows, as rows of JSON text. Pure.

Each picture reuses the rows that have not changed. So a picture costs only what has changed, and
identity tells which rows of two pictures differ.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from mpslice.nodelayout import ConditionType, GpuStatus, LayoutStatus, NodeLayout, SliceState
from mpslice.slices import SliceSize
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Refusal
from planner.model.pods import GATE, Pod
from planner.packing.order import planned_order
from planner.ui.history import Sample
from planner.ui.seen import Seen
from planner.view import Decision
from planner.words.condition import QUEUE
from planner.words.explain import placement_text, refusal_text, reservation_text, sizes_text

MOST_ROWS: Final = 5000
"""Pods of the queue that are shown; the others are counted."""

PLACED, QUEUED, ASIDE = range(3)
"""The state of a waiting pod: it has a place, waits for one, or can have none now."""

_UNQUEUED: Final = frozenset({Cause.BACKOFF, Cause.VOLUME})


@dataclass(frozen=True, slots=True)
class Row:
    """JSON text, and the `source` that it was made from. `namespace` is "" for a node; `said` is
    what the planner says of one.
    """

    source: object
    text: str
    namespace: str = ""
    capacity: int = 0  # gb
    used: int = 0  # gb
    said: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """All that the page shows.

    `nodes` by name, `queue` by pod in the planner's order, with the place of each that has one.
    `waiting` counts all waiting pods, those without a row, too.
    """

    nodes: Mapping[str, Row] = field(default_factory=dict)
    queue: Mapping[str, Row] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    history: tuple[Sample, ...] = ()
    label: str = ""
    leader: str = ""
    decision: Decision | None = None
    """Of the replica that leads, None on the others."""

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces of the pods in the queue."""
        return frozenset(row.namespace for row in self.queue.values())


def picture(seen: Seen, history: tuple[Sample, ...], before: Picture) -> Picture:
    """The picture of what is seen; rows that need no change are those of `before`."""
    if seen.decision is not None and seen.decision is before.decision:
        queue, places, waiting = before.queue, before.places, before.waiting
    else:
        waits = sorted(_waits(seen), key=lambda wait: (wait.stand, planned_order(wait.pod)))
        waiting = len(waits)
        queue, places = _queue(waits[:MOST_ROWS], before.queue)
    return Picture(
        node_rows(seen, before.nodes),
        queue,
        places,
        waiting,
        history,
        seen.label,
        seen.leader,
        seen.decision,
    )


def node_rows(seen: Seen, before: Mapping[str, Row]) -> Mapping[str, Row]:
    """A row for each NodeLayout, by the node's name."""
    rows: dict[str, Row] = {}
    decision = seen.decision or Decision()
    for name, layout in seen.layouts.items():
        said = decision.snapshot.set_aside.get(name) or decision.away.get(name) or ""
        row = before.get(name)
        known = row is not None and row.source is layout and row.said == said
        rows[name] = row if row is not None and known else _node_row(layout, said)
    for name, problem in seen.unreadable.items():
        row = before.get(name)
        known = row is not None and row.source == problem
        text = _text({"ready": False, "problem": problem, "gpus": []})
        rows[name] = row if row is not None and known else Row(problem, text)
    return rows


def _node_row(layout: NodeLayout, said: str) -> Row:
    """`said` is what the planner says of the node, which the agent may not know."""
    status = layout.status or LayoutStatus()
    wanted = {gpu.uuid: gpu.slices for gpu in layout.spec.gpus}
    problem = _problem(layout) or said
    shown = {
        "ready": not problem,
        "problem": problem,
        "gpus": [_gpu(gpu, wanted.get(gpu.uuid, {})) for gpu in status.gpus],
    }
    capacity = sum(gpu.capacity_gb for gpu in status.gpus)
    used = sum(gpu.used_gb for gpu in status.gpus)
    return Row(layout, _text(shown), capacity=capacity, used=used, said=said)


def _problem(layout: NodeLayout) -> str:
    """Why the node is not as it should be, in the agent's words; "" when it is."""
    if layout.status is None:
        return "no agent has reported yet"
    if layout.spec.release:
        return "the node is being handed back"
    for type_ in (ConditionType.READY, ConditionType.APPLIED):
        condition = layout.status.condition(type_)
        if condition is not None and not condition.status:
            return f"{condition.reason}: {condition.message}"
    return "" if layout.status.is_true(ConditionType.READY) else "no agent has reported yet"


def _gpu(gpu: GpuStatus, wanted: Mapping[SliceSize, int]) -> dict[str, Any]:
    """`slices` are [gb] when free and [gb, pod, container] when used, `making` are sizes in gb."""
    counts = dict(wanted)
    for entry in gpu.slices:
        counts[entry.id.size] = counts.get(entry.id.size, 0) - 1
    return {
        "index": gpu.index,
        "product": gpu.product,
        "gb": gpu.capacity_gb,
        "problem": "" if gpu.healthy else gpu.reason or "Unhealthy",
        "slices": [
            [entry.id.size, entry.pod or "", entry.container or ""]
            if entry.state is SliceState.USED
            else [entry.id.size]
            for entry in gpu.slices
        ],
        "making": [size for size, count in sorted(counts.items()) for _ in range(count)],
    }


@dataclass(frozen=True, slots=True)
class _Wait:
    """A pod that waits. `facts` change with the sentence, which is made when it is needed."""

    pod: Pod
    stand: int
    reason: str
    facts: object
    sentence: Callable[[], str]


def _waits(seen: Seen) -> Iterator[_Wait]:
    return _as_told(seen.pods) if seen.decision is None else _decided(seen.decision, seen.label)


def _decided(decision: Decision, label: str) -> Iterator[_Wait]:
    states = {state.node.name: state for state in decision.snapshot.nodes}
    ways = (
        ("SliceReady", decision.standing, ""),
        ("Carving", decision.carving, ": its slices are being made"),
    )
    for reason, placements, more in ways:
        for placed in placements:
            words = partial(_placed, placed, states, more)
            yield _Wait(placed.pod, PLACED, reason, (placed.node, placed.gpus), words)
    kept = {r.pod.key: r for r in decision.plan.reservations if r.node in states}
    for refusal in decision.refused:
        reservation = kept.get(refusal.pod.key)
        where = reservation_text(reservation, states) if reservation is not None else ""
        facts = (refusal.causes, refusal.hole, refusal.note, refusal.details, where)
        stand = ASIDE if refusal.own in _UNQUEUED else QUEUED
        words = partial(_refused, refusal, label, where)
        yield _Wait(refusal.pod, stand, refusal.reason, facts, words)
    for pod in decision.gated:
        yield _gated(pod)


def _placed(placement: Placement, states: Mapping[str, NodeState], more: str) -> str:
    return placement_text(placement, states) + more


def _refused(refusal: Refusal, label: str, where: str) -> str:
    text = refusal_text(refusal, label)
    return f"{text}; {where}" if where else text


def _as_told(pods: Iterable[Pod]) -> Iterator[_Wait]:
    """Yields what the leader has written into pods' conditions, for replicas that stand by."""
    for pod in pods:
        if not pod.claims or pod.node or pod.finished or pod.terminating:
            continue
        told = pod.available
        if not pod.is_pending:
            yield _gated(pod)
        elif told is None:
            yield _Wait(pod, QUEUED, "Pending", None, partial(str, "not judged yet"))
        else:
            placed = told.status or told.reason == "Carving"
            stand = PLACED if placed else QUEUED if QUEUE in told.message else ASIDE
            words = partial(str, told.message)
            yield _Wait(pod, stand, told.reason, told.message, words)


def _gated(pod: Pod) -> _Wait:
    others = ", ".join(gate for gate in pod.gates if gate != GATE)
    words = partial(str, f"waits for other scheduling gates: {others}")
    return _Wait(pod, ASIDE, str(Cause.GATED), pod.gates, words)


def _queue(
    waits: Iterable[_Wait], before: Mapping[str, Row]
) -> tuple[dict[str, Row], dict[str, int]]:
    rows: dict[str, Row] = {}
    places: dict[str, int] = {}
    for wait in waits:
        pod = wait.pod
        if wait.stand == QUEUED:
            places[pod.key] = len(places) + 1
        source = (pod.uid, pod.priority, pod.waits_since, wait.stand, wait.reason, wait.facts)
        row = before.get(pod.key)
        known = row is not None and row.source == source
        rows[pod.key] = row if row is not None and known else _queue_row(wait, source)
    return rows, places


def _queue_row(wait: _Wait, source: object) -> Row:
    pod = wait.pod
    shown = {
        "namespace": pod.namespace,
        "name": pod.name,
        "stand": wait.stand,
        "priority": pod.priority,
        "since": pod.waits_since,
        "sizes": sizes_text(pod),
        "reason": wait.reason,
        "text": wait.sentence(),
    }
    return Row(source, _text(shown), pod.namespace)


def _text(value: Any) -> str:
    """One line of ASCII, so that it may stand in an event as it is."""
    return json.dumps(value, separators=(",", ":"))
