"""Which pods are nominated to their node, so that no other is bound to the slice meant for them.

A pod without a gate is bound to any free slice of its size. But kube-scheduler counts a pod that is
nominated to a node, gated or not, as if it stood there when it places others of the same or a lower
priority (framework/runtime/framework.go, addGENominatedPods), and tries it there first
(schedule_one.go, evaluateNominatedNode). It is a write more for a pod: only where there are rivals.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate, islice
from typing import Final

from mpslice.slices import SliceSize
from planner.feasibility.nodes import node_refusal
from planner.gate.gates import standing_sizes
from planner.model.constraints import Constraints, Resources
from planner.model.nodes import NodeState
from planner.model.plan import Placement, Reservation
from planner.model.pods import Pod
from planner.progress.machine import NEW, Progress, is_nominated_often
from planner.progress.note import read_note, wanted_note
from planner.writes.actions import Nominate

_MANY: Final = 64  # kinds of rivals for a size: more are not looked at one by one


@dataclass(slots=True)
class _Claims:
    """Who asks for a size: kinds of pods with a place and what they request, how many of them on
    which node, and kinds of pods without any.

    `mixed`: pods that may not take each other's slices are to go to different nodes.
    """

    kinds: set[Hashable] = field(default_factory=set)
    requests: set[Resources] = field(default_factory=set)
    homes: Counter[str] = field(default_factory=Counter)
    placeless: Counter[tuple[Constraints, int]] = field(default_factory=Counter)
    mixed: bool = False


class Rivals:
    """What endangers a slice.

    `placeless` are pods without a place that have no gate any more or are about to lose it, `going`
    where free slices of a size stand that are to be withdrawn, `ending` the nodes on which a pod is
    about to end.
    """

    def __init__(
        self,
        placements: Iterable[Placement],
        placeless: Iterable[Pod],
        reservations: Sequence[Reservation],
        going: Collection[tuple[str, SliceSize]],
        states: Iterable[NodeState],
        ending: Collection[str] = (),
    ) -> None:
        self._ending = ending
        self._states = {state.node.name: state for state in states}
        self._reservations = reservations
        self._going: dict[SliceSize, list[str]] = {}
        for node, size in going:
            self._going.setdefault(size, []).append(node)
        self._claims: dict[SliceSize, _Claims] = {}
        self._answers: dict[tuple[Constraints, str], bool] = {}
        self._within_reach: dict[tuple[Constraints, SliceSize], tuple[str, ...]] = {}
        placements = tuple(placements)
        self._lowest: dict[str, int] = {}  # the lowest priority that is placed on a node
        for placement in placements:
            pod, node = placement.pod, placement.node
            self._lowest[node] = min(pod.priority, self._lowest.get(node, pod.priority))
            for size in set(pod.seats):
                claims = self._claims.setdefault(size, _Claims())
                claims.kinds.add(_kind(pod))
                claims.requests.add(pod.requests)
                claims.homes[placement.node] += 1
        self._find_mixed(placements)
        self._loose: set[str] = set()
        for pod in placeless:
            self._loose.add(pod.key)
            for size in set(pod.seats):
                claims = self._claims.setdefault(size, _Claims())
                claims.placeless[pod.constraints, pod.priority] += 1

    def _find_mixed(self, placements: Iterable[Placement]) -> None:
        apart = {size: claims for size, claims in self._claims.items() if len(claims.homes) > 1}
        for claims in apart.values():
            claims.mixed = len(claims.kinds) > 1
        unlike = {s for s, claims in apart.items() if len(claims.requests) > 1 and not claims.mixed}
        if unlike:
            left = self._left({node for s in unlike for node in apart[s].homes}, placements)
            for size in _short_of_room(unlike, placements, left):
                apart[size].mixed = True

    def _left(
        self, names: Iterable[str], placements: Iterable[Placement]
    ) -> dict[str, Counter[str]]:
        """What is left of the nodes beside all that is to go there."""
        left = {name: _amounts(self._states[name].idle) for name in names if name in self._states}
        for placement in placements:
            if placement.node in left:
                left[placement.node].subtract(_amounts(placement.pod.requests))
        return left

    def endanger(self, placement: Placement) -> bool:
        """Whether another pod might be bound to its slices, or it to another's; always for a pod of
        a spread group, whose place is to be known until it is bound."""
        return placement.pod.spread or any(
            self._claims[size].mixed
            or self._is_wanted(size, placement.node, placement.pod)
            or self._leads_astray(placement, size)
            for size in set(placement.pod.seats)
        )

    def endanger_reserved(self, reservation: Reservation) -> bool:
        """Whether a pod without a place might take a slice that comes free for another."""
        pod = reservation.pod
        sizes = standing_sizes(reservation, self._states).intersection(pod.seats)
        itself = int(pod.key in self._loose)  # a pod that keeps its gate is not counted there
        return any(self._is_wanted(size, reservation.node, pod, itself) for size in sizes)

    def crowd(self, pod: Pod, node: str) -> bool:
        """Whether pods are to be bound on the node that a nomination of the pod would hinder."""
        lowest = self._lowest.get(node)
        return lowest is not None and lowest <= pod.priority

    def outlive(self, pod: Pod) -> bool:
        """Whether the room that the scheduler nominated a pod without a place for is others' now:
        its victims are gone, and the plan puts pods on the node that the nomination hinders.
        """
        return self.crowd(pod, pod.nominated) and pod.nominated not in self._ending

    def _is_wanted(self, size: SliceSize, node: str, pod: Pod, itself: int = 0) -> bool:
        """Whether pods without a place, of which the pod is `itself` one, may take the slice."""
        placeless = self._claims[size].placeless if size in self._claims else Counter()
        own = pod.constraints, pod.priority
        return len(placeless) > _MANY or any(
            rival <= pod.priority
            and count > (itself if (constraints, rival) == own else 0)
            and self._may_use(constraints, node)
            for (constraints, rival), count in placeless.items()
        )

    def _may_use(self, constraints: Constraints, node: str) -> bool:
        known = self._answers.get((constraints, node))
        if known is None:
            state = self._states.get(node)
            known = state is not None and node_refusal(constraints, state.node) is None
            self._answers[constraints, node] = known
        return known

    def reaches_going(self, pod: Pod, but: str = "") -> bool:
        """Whether the pod might be bound to a slice that is to be withdrawn, not on node `but`."""
        return any(
            node != but
            for size in set(pod.seats)
            for node in self._going_for(pod.constraints, size)
        )

    def _going_for(self, constraints: Constraints, size: SliceSize) -> tuple[str, ...]:
        """The first two of the nodes where such a pod might be bound to a slice that is to be
        withdrawn: two, because one of them may be its own.
        """
        if size not in self._going:
            return ()
        known = self._within_reach.get((constraints, size))
        if known is None:
            usable = (n for n in self._going[size] if self._may_use(constraints, n))
            known = self._within_reach[constraints, size] = tuple(islice(usable, 2))
        return known

    def _leads_astray(self, placement: Placement, size: SliceSize) -> bool:
        """Whether a free slice of the size stands elsewhere that is not for the pod: on a GPU that
        another reserved, or to be withdrawn."""
        return self.reaches_going(placement.pod, placement.node) or any(
            gpu.uuid in reservation.gpus and gpu.free.get(size, 0) > 0
            for reservation in self._reservations
            if reservation.pod.key != placement.pod.key
            and reservation.node != placement.node
            and reservation.node in self._states
            for gpu in self._states[reservation.node].gpus
        )


def _kind(pod: Pod) -> Hashable:
    """All but requests by which a pod may not take a slice that another of its kind may take."""
    several = tuple(sorted(pod.seats)) if len(pod.seats) > 1 else ()  # all on one node
    alone = pod.constraints, pod.avoid, pod.ports, pod.priority
    return alone, pod.relations, pod.group_key, several


def _short_of_room(
    sizes: Collection[SliceSize],
    placements: Iterable[Placement],
    left: Mapping[str, Counter[str]],
) -> set[SliceSize]:
    """Those of the sizes by which a node could be short of something.

    It is, if of each size those pods came there that ask for most of it, as many as are to go
    there, and that is more than `left` of the node has beside those that are to go there.
    """
    asked: dict[SliceSize, list[tuple[str, Counter[str]]]] = {}
    for placement in placements:
        for size in set(placement.pod.seats).intersection(sizes):
            asked.setdefault(size, []).append((placement.node, _amounts(placement.pod.requests)))
    more: Counter[tuple[str, str]] = Counter()
    blamed: dict[tuple[str, str], set[SliceSize]] = {}
    for size, pods in asked.items():
        many = Counter(node for node, _ in pods)
        there: dict[str, Counter[str]] = {node: Counter() for node in many}
        for node, amounts in pods:
            there[node].update(amounts)
        for name in {name for _, amounts in pods for name in amounts}:
            falling = sorted((amounts[name] for _, amounts in pods), reverse=True)
            most = [0, *accumulate(falling)]
            for node, count in many.items():
                if node in left and most[count] > there[node][name]:
                    more[node, name] += most[count] - there[node][name]
                    blamed.setdefault((node, name), set()).add(size)
    short = (key for key, amount in more.items() if amount > left[key[0]][key[1]])
    return {size for key in short for size in blamed[key]}


def _amounts(resources: Resources) -> Counter[str]:
    own = {
        "cpu": resources.cpu_milli,
        "memory": resources.memory,
        "ephemeral-storage": resources.ephemeral,
    }
    return Counter(own | dict(resources.extended))


def nominations(
    placements: Sequence[Placement],
    loose: Sequence[Pod],
    stuck: Sequence[Pod],
    reservations: Sequence[Reservation],
    rivals: Rivals,
    progress: Mapping[str, Progress],
    now: datetime,
) -> tuple[Nominate, ...]:
    """The nominations that are missing or wrong now.

    `loose` are pods without a place that have no gate any more or are about to lose it, `stuck`
    those without a place that keep it. What the scheduler nominated by itself is left alone as long
    as it can come to something. A pod with a reservation is nominated only while the plan puts no
    pod of its priority or a lower one on the node: kube-scheduler would count it against them.
    """
    wanted = {p.pod.key: (p.node, rivals.endanger(p)) for p in placements}
    gpus = {p.pod.key: p.gpus for p in placements if p.pod.spread}
    for reservation in reservations:
        key, node = reservation.pod.key, reservation.node
        if key not in wanted and not rivals.crowd(reservation.pod, node):
            wanted[key] = node, rivals.endanger_reserved(reservation)
    pods = (*(placement.pod for placement in placements), *loose, *stuck)

    def noted(pod: Pod) -> Progress:
        return replace(progress.get(pod.uid, NEW), gpus=gpus.get(pod.key, ()))

    theirs = {
        pod.key
        for pod in pods
        if pod.nominated and not pod.gated and pod.nominated != ours(pod)
        if pod.key in wanted or not rivals.outlive(pod)
    }
    return tuple(
        Nominate(pod, node, wanted_note(pod, noted(pod), node, late=not pod.gated))
        for pod in pods
        if pod.key not in theirs
        if (node := _nominee(pod, *wanted.get(pod.key, ("", False)))) != pod.nominated
        and not _is_cleared(pod, node, progress.get(pod.uid, NEW), now)
    )


def _nominee(pod: Pod, node: str, endangered: bool) -> str:
    """The node that the pod should be nominated to."""
    if not pod.nominated and not endangered:
        return ""
    return node


def _is_cleared(pod: Pod, node: str, progress: Progress, now: datetime) -> bool:
    """Whether the scheduler has cleared just this nomination a moment ago."""
    return not pod.nominated and ours(pod) == node and is_nominated_often(progress, now)


def ours(pod: Pod) -> str:
    """The node that the planner has nominated the pod to, as its annotation says, or ""."""
    return read_note(pod.progress).nominated if pod.progress else ""
