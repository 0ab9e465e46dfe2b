"""Where the time goes between a pod's creation and its binding, as watches see it.

Pods, NodeLayouts and the node are watched by the process that creates the pod, so all times are of
one clock; each is that of the watch event, about a millisecond after the write.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mpslice.kube.reflector import Change

Durations = Mapping["Step", float]
"""Milliseconds from the step before that the pod took, in the order of the steps."""


class Step(StrEnum):
    """What is seen to happen, in this order; a pod takes those steps that it needs."""

    CREATED = "pod created"
    PLANNED = "layout written"
    CLOSED = "node shows less"
    CARVED = "slice shown"
    LET_GO = "gate gone"
    BOUND = "bound"


@dataclass(frozen=True, slots=True)
class PodSeen:
    """What is watched of a pod."""

    node: str
    gated: bool


@dataclass(frozen=True, slots=True)
class LayoutSeen:
    """What is watched of a NodeLayout."""

    generation: int


def pod_seen(pod: Mapping[str, Any]) -> PodSeen:
    """Projects a Pod."""
    spec = pod["spec"]
    return PodSeen(str(spec.get("nodeName", "")), bool(spec.get("schedulingGates")))


def layout_seen(layout: Mapping[str, Any]) -> LayoutSeen:
    """Projects a NodeLayout."""
    return LayoutSeen(int(layout["metadata"]["generation"]))


def node_seen(node: Mapping[str, Any]) -> dict[str, int]:
    """The node's slices by resource."""
    allocatable = node["status"].get("allocatable") or {}
    return {k: int(n) for k, n in allocatable.items() if k.startswith("nvidia.com/gpu-")}


@dataclass(slots=True)
class Trail:
    """Follows one pod at a time: `begin`, then the watches' changes, then `durations`."""

    clock: Callable[[], float] = time.perf_counter
    _pod: str = ""
    _resource: str = ""
    _began: float = 0.0
    _at: dict[Step, float] = field(default_factory=dict)
    _layout: LayoutSeen = field(default=LayoutSeen(0))
    _node: Mapping[str, int] = field(default_factory=dict)

    def begin(self, pod: str, resource: str) -> None:
        """The pod (`namespace/name`), which asks for one of the resource, is sent now."""
        self._pod, self._resource = pod, resource
        self._at.clear()
        self._began = self.clock()

    def pod(self, change: Change[PodSeen]) -> None:
        if change.key != self._pod or change.new is None:
            return
        self._mark(Step.CREATED)
        if not change.new.gated:
            self._mark(Step.LET_GO)
        if change.new.node:
            self._mark(Step.BOUND)

    def layout(self, change: Change[LayoutSeen]) -> None:
        if change.new is not None:
            before, self._layout = self._layout, change.new
            if change.new.generation > before.generation:
                self._mark(Step.PLANNED)
            self._look()

    def node(self, change: Change[Mapping[str, int]]) -> None:
        if change.new is not None:
            before, self._node = self._node, change.new
            less = any(change.new.get(name, 0) < count for name, count in before.items())
            if less and Step.PLANNED in self._at:
                self._mark(Step.CLOSED)
            self._look()

    def _look(self) -> None:
        if Step.PLANNED in self._at and self._node.get(self._resource, 0) > 0:
            self._mark(Step.CARVED)

    def _mark(self, step: Step) -> None:
        if step not in self._at:
            self._at[step] = self.clock()

    def durations(self) -> dict[Step, float]:
        """Milliseconds of each step that was seen."""
        found: dict[Step, float] = {}
        before = self._began
        for step in Step:
            if step in self._at:
                found[step] = (self._at[step] - before) * 1000
                before = self._at[step]
        return found


def median_steps(pods: Iterable[Durations]) -> dict[str, float]:
    """The median of each step over pods of one kind."""
    by_step: dict[Step, list[float]] = {}
    for durations in pods:
        for step, milliseconds in durations.items():
            by_step.setdefault(step, []).append(milliseconds)
    return {
        str(step): round(statistics.median(by_step[step]), 1) for step in Step if step in by_step
    }
