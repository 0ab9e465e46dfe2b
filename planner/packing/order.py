"""Units of planning and their order: what is placed together, and whose turn is first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from planner.model.pods import Group, Pod
from planner.model.snapshot import Snapshot

AGED: Final = timedelta(minutes=5)
"""A unit that has waited so long goes before the others of its priority, and may reserve."""

RESERVES: Final = timedelta(minutes=15)
"""How long a reservation lasts, from the moment that it began."""

Rank = tuple[int, bool, bool]
"""The class of a unit: units of one rank compete by GB, the lowest rank comes first.

The negated priority, whether it is no group of which a part runs, and whether it has not waited
long.
"""


@dataclass(slots=True, eq=False)  # frozen it would take three times as long to make
class Unit:
    """A lone pod, or the pods that a group needs to run, the older first: all are placed, or none.

    `needed` is how many there have to be, which may be more than there are. `oldest` is the pod
    that says when it is the unit's turn: of a group it may be bound already, so that the group's
    turn does not change while its pods are bound one by one. A pod that a group has beside those
    it needs is a unit of its own, which may be placed `after` the group.
    """

    pods: tuple[Pod, ...]
    rank: Rank
    oldest: Pod
    needed: int = 1
    after: "Unit | None" = None

    @property
    def aged(self) -> bool:
        return not self.rank[2]

    @property
    def gb(self) -> int:
        return sum(sum(pod.seats) for pod in self.pods)

    @property
    def key(self) -> str:
        """What a reservation is kept under: the group's key while its minimum is to be placed."""
        first = self.pods[0]
        return first.group_key if self.needed > 1 and first.group else first.uid


def planned_order(pod: Pod) -> tuple[int, str, str, str]:
    """Sort key: the higher priority first, then the pod that waits longer, then by name."""
    return -pod.priority, pod.waits_since, pod.namespace, pod.name


def units_of(pending: Iterable[Pod], snapshot: Snapshot) -> list[Unit]:
    """Every pending pod in one unit, in planned order: by rank, then the older first."""
    aged_until = _text(snapshot.now - AGED) if snapshot.now is not None else ""
    units: list[Unit] = []
    ranks: dict[Rank, Rank] = {}  # one of each: what is the same is compared most quickly
    groups: dict[str, list[Pod]] = {}
    for pod in pending:
        if pod.group:
            groups.setdefault(pod.group_key, []).append(pod)
        else:
            rank = -pod.priority, True, not ("" < (pod.since or pod.created) <= aged_until)
            units.append(Unit((pod,), ranks.setdefault(rank, rank), pod))
    for key, pods in groups.items():
        pods.sort(key=planned_order)
        units.extend(_group_units(pods, snapshot.groups.get(key, Group()), aged_until))
    units.sort(key=_turn)
    return units


def _turn(unit: Unit) -> tuple[Rank, str, str, str]:
    oldest = unit.oldest
    return unit.rank, oldest.since or oldest.created, oldest.namespace, oldest.name


def _group_units(pods: Sequence[Pod], group: Group, aged_until: str) -> Iterable[Unit]:
    """What a group needs to run as one unit, and each further pod as one of its own.

    The group has one priority, the highest, and one turn, that of its oldest pod, whichever of them
    are bound already. A group of which only a part runs goes before its peers; its further pods
    do not, so that their turn is the same before and after.
    """
    every = [*pods, *group.placed]
    oldest = min(every, key=_age)
    priority = max(pod.priority for pod in every)
    needed = group_minimum(pods, group) - group.there

    def rank(since: str, *, begun: bool) -> Rank:
        return -priority, not begun, not ("" < since <= aged_until)

    first: Unit | None = None
    if needed > 0:
        turn = rank(min(pod.waits_since for pod in pods), begun=bool(group.placed))
        first = Unit(tuple(pods[:needed]), turn, oldest, needed)
        yield first
        pods = pods[needed:]
    for pod in pods:
        yield Unit((pod,), rank(pod.waits_since, begun=False), oldest, after=first)


def _age(pod: Pod) -> tuple[str, str, str]:
    return pod.waits_since, pod.namespace, pod.name


def group_minimum(pods: Sequence[Pod], group: Group) -> int:
    """How many pods of a group have to run: its PodGroup says, else the pods, else all of them."""
    if group.minimum is not None:
        return group.minimum
    every = (*pods, *group.placed)
    said = [pod.min_member for pod in every if pod.min_member is not None]
    return max(said) if said else len(pods) + group.there


def _text(moment: datetime) -> str:
    """As Kubernetes writes creationTimestamp, so that they compare as text."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
