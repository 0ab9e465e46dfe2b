"""Which changes of other people's pods could alter the newest decision. Pure.

A cluster has far more pods without slices than with them, and they come and go all the time. They
bear on a decision only by what they take of nodes, by their group, and by relations between pods.
"""

from dataclasses import dataclass
from typing import Final

from planner.model.constraints import NO_RELATIONS
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.view import Decision

_OF_ROOM: Final = frozenset(
    {
        Cause.HOST_PORT,
        Cause.CPU,
        Cause.MEMORY,
        Cause.EPHEMERAL_STORAGE,
        Cause.PODS,
        Cause.EXTENDED_RESOURCE,
        Cause.GROUP,
        Cause.RESERVED,
    }
)
"""What a pod may be refused for that the end of a pod without slices may change."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a decision depends on.

    `placed` are the nodes where pods are to go, `wanted` those that may come to fit a refused pod,
    `groups` the keys of the groups that wait, `related` whether a pod that waits has relations.
    """

    placed: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    related: bool = False

    def concerns(self, old: Pod | None, new: Pod | None) -> bool:
        """Whether a change of a pod without slices could alter the decision."""
        for pod in (old, new):
            if pod is not None and pod.group_key in self.groups:
                return True
        if self.related and _face(old) != _face(new):
            return True
        before, after = _takes(old), _takes(new)
        if before == after:
            return False
        return bool(before and before[0] in self.wanted) or bool(after and after[0] in self.placed)


def interest_of(decision: Decision) -> Interest:
    """What the newest decision depends on."""
    made = decision.plan
    placements = (*made.placements, *decision.patient)
    waiting = [p.pod for p in placements] + [r.pod for r in decision.refused]
    short = any(
        r.own in _OF_ROOM or any(cause in _OF_ROOM for cause, _ in r.causes)
        for r in decision.refused
    )
    everywhere = frozenset(state.node.name for state in decision.snapshot.nodes)
    repelling = bool(waiting) and bool(decision.snapshot.neighbours.repelling)
    return Interest(
        placed=frozenset(p.node for p in placements),
        wanted=everywhere if short or made.reservations else frozenset(),
        groups=frozenset(pod.group_key for pod in waiting if pod.group),
        related=repelling or any(pod.relations is not NO_RELATIONS for pod in waiting),
    )


def _takes(pod: Pod | None) -> tuple[object, ...] | None:
    """The node on which the pod takes room, and how much."""
    if pod is None or pod.finished:
        return None
    node = pod.node or ("" if pod.terminating else pod.nominated)
    return (node, pod.requests, pod.ports, pod.problem) if node else None


def _face(pod: Pod | None) -> tuple[object, ...] | None:
    """What relations between pods look at."""
    if pod is None or not pod.node or pod.finished:
        return None
    return pod.node, pod.namespace, pod.labels, pod.relations, pod.terminating
