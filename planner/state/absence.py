"""Nodes on which nothing is begun for the moment: their agents are away, or take no layout.

Pods that fit elsewhere go there. Others wait for the agent as long as it may be a restart. Pure;
time is passed in.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mpslice.nodelayout import (
    KUBELET_UNAVAILABLE,
    STOPPING,
    Condition,
    ConditionType,
    LayoutStatus,
    NodeLayout,
)
from planner.model.nodes import Node

PATIENCE: Final = 2.0
"""Seconds before an agent counts as away: a layout's and its node's status come by two watches, the
first of them at times alone; and most restarts are over by then."""

SILENCE: Final = 30.0
"""Seconds in which a layout has to be acknowledged, which takes agents milliseconds, and its write
to be accepted."""

RETURN: Final = 120.0
"""Seconds in which a restarted agent is back, its image pulled anew."""

AGAIN: Final = 60.0
"""Seconds until a layout that the API server refused is tried again."""

_PASSING: Final = frozenset({STOPPING, KUBELET_UNAVAILABLE})
_AWAY: Final = f"its node agent has been away for {RETURN:.0f} seconds"
_SILENT: Final = f"its node agent has not taken the layout for {SILENCE:.0f} seconds"
_MISSING: Final = f"slices of its layout have not become bindable for {SILENCE:.0f} seconds"


def is_passing(layout: NodeLayout) -> bool:
    """Whether the agent says that it does not serve the node for the moment."""
    condition = (layout.status or LayoutStatus()).condition(ConditionType.READY)
    return condition is not None and not condition.status and condition.reason in _PASSING


def shows_nothing(node: Node, layout: NodeLayout) -> bool:
    """Whether the node's status has none of the slices that the layout lists as usable.

    The kubelet shows 0 of a resource whose plugin is gone (pkg/kubelet/cm/devicemanager/manager.go,
    GetCapacity); of a GPU that is not healthy the plugin offers none itself.
    """
    listed = False
    for gpu in (layout.status or LayoutStatus()).gpus:
        for entry in gpu.slices if gpu.healthy else ():
            if node.slices.get(entry.id.size):
                return False  # of nearly every node at the first slice
            listed = True
    return listed


def not_carried_out(layout: NodeLayout) -> str:
    """Why slices of the layout are missing though their deadline has passed, as a clause."""
    status = layout.status or LayoutStatus()
    if status.observed_generation < layout.generation:
        return _SILENT
    applied = status.condition(ConditionType.APPLIED)
    if applied is None or applied.status:
        return _MISSING
    said = f"{applied.reason}: {applied.message}" if applied.message else applied.reason
    return f"its node agent has not applied the layout for {SILENCE:.0f} seconds ({said})"


def as_if_there(layout: NodeLayout) -> NodeLayout:
    """What the layout will be once its agent is back."""
    if not is_passing(layout) or layout.status is None:
        return layout
    others = (c for c in layout.status.conditions if c.type is not ConditionType.READY)
    ready = Condition(ConditionType.READY, True, "Expected")
    return replace(layout, status=replace(layout.status, conditions=(ready, *others)))


@dataclass(frozen=True, slots=True)
class Absence:
    """`awaited`: a pod that fits only here waits. `problem` is what to tell of the node, or ""."""

    awaited: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Sign:
    """What shows that a node cannot be planned on, once it has for `patience` seconds.

    `key` tells one such time from the next; the problem is told after `told` seconds.
    """

    key: object
    patience: float
    problem: str
    told: float


@dataclass(slots=True)
class _Refused:
    """A layout that could not be written or was not carried out: a clause that says why, the first
    and the last time.
    """

    problem: str
    first: float
    last: float


@dataclass(slots=True)
class Absences:
    """Since when which node has shown which sign."""

    patience: float = PATIENCE
    silence: float = SILENCE
    _since: dict[tuple[str, object], float] = field(default_factory=dict)
    _refused: dict[str, _Refused] = field(default_factory=dict)
    _next: float | None = None

    def refused(self, name: str, error: str, now: float) -> None:
        """The API server does not take the node's layout."""
        problem = f"its layout cannot be written ({error})"
        before = self._refused.setdefault(name, _Refused(problem, now, now))
        before.last = now

    def overdue(self, name: str, problem: str, now: float) -> None:
        """The node let the deadline of a carve pass: nothing is begun on it for a minute."""
        self._refused[name] = _Refused(problem, now - self.silence, now)

    def written(self, name: str) -> None:
        """The API server has taken the node's layout."""
        self._refused.pop(name, None)

    def watch(
        self, nodes: Iterable[Node], layouts: Mapping[str, NodeLayout], now: float
    ) -> dict[str, Absence]:
        """Takes note of what nodes show; by name those that are not to be planned on.

        `layouts` are those that were written, by node.
        """
        since, self._since = self._since, {}
        self._next = None
        found: dict[str, Absence] = {}
        for node in nodes:
            layout = layouts.get(node.name)
            if layout is None or layout.spec.release or not node.ready:
                continue
            for sign in self._signs(node, layout):
                key = node.name, sign.key
                begin = self._since[key] = since.get(key, now)
                self._remind(now, begin + sign.patience, begin + sign.told, begin + RETURN)
                if now >= begin + sign.patience:
                    problem = sign.problem if now >= begin + sign.told else ""
                    absence = Absence(now < begin + RETURN, problem)
                    found[node.name] = _worse(found.get(node.name), absence)
            if (refusal := self._refusal(node.name, now)) is not None:
                found[node.name] = _worse(found.get(node.name), refusal)
        return found

    def _signs(self, node: Node, layout: NodeLayout) -> Iterator[_Sign]:
        observed = layout.status.observed_generation if layout.status is not None else None
        if is_passing(layout):
            yield _Sign("away", 0.0, _AWAY, RETURN)
        elif shows_nothing(node, layout):
            yield _Sign("away", self.patience, _AWAY, RETURN)
        elif observed is not None and observed < layout.generation:
            yield _Sign(("silent", observed), self.silence, _SILENT, self.silence)

    def _refusal(self, name: str, now: float) -> Absence | None:
        refused = self._refused.get(name)
        if refused is None:
            return None
        end = refused.last + AGAIN
        if now >= end + AGAIN:
            del self._refused[name]  # it was not wanted any more
            return None
        self._remind(now, end)
        if now >= end or refused.last - refused.first < self.silence:
            return None
        return Absence(False, refused.problem)

    def _remind(self, now: float, *times: float) -> None:
        coming = [time for time in (*times, self._next) if time is not None and time > now]
        self._next = min(coming, default=None)

    def due(self) -> float | None:
        """When `watch` has to be asked again, on the clock that it was given."""
        return self._next


def _worse(one: Absence | None, other: Absence) -> Absence:
    if one is None:
        return other
    return Absence(one.awaited and other.awaited, one.problem or other.problem)
