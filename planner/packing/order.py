"""Units of planning and their order: what is placed together, whose turn it is, who waited long."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from planner.model import Group, Pod, Snapshot

AGED: Final = timedelta(minutes=5)
"""Who has waited so long goes before the others of the same priority, and may reserve GPUs."""

RESERVES: Final = timedelta(minutes=15)
"""How long a reservation lasts, from the moment that a unit has waited for AGED."""

Rank = tuple[int, bool]
"""The class of a unit: units of one rank compete by GB, the lowest rank comes first."""


@dataclass(slots=True, eq=False)  # frozen it would take three times as long to make
class Unit:
    """A lone pod, or the pending pods of a group, the older first.

    At least `needed` of the pods have to be placed, or none is; that may be more than there are.
    """

    pods: tuple[Pod, ...]
    rank: Rank
    needed: int = 1
    reserves: bool = False

    @property
    def aged(self) -> bool:
        return not self.rank[1]

    @property
    def gb(self) -> int:
        return sum(sum(pod.seats) for pod in self.pods)


def planned_order(pod: Pod) -> tuple[int, str, str, str]:
    """Sort key: the higher priority first, then the older, then by name."""
    return -pod.priority, pod.created, pod.namespace, pod.name


def units_of(pending: Iterable[Pod], snapshot: Snapshot) -> list[Unit]:
    """Every pending pod in one unit, in planned order: by rank, then the older first."""
    aged_until, spent_until = _thresholds(snapshot.now)
    units: list[Unit] = []
    ranks: dict[Rank, Rank] = {}  # one of each: what is the same is compared most quickly
    groups: dict[str, list[Pod]] = {}
    for pod in pending:
        if pod.group:
            groups.setdefault(pod.group_key, []).append(pod)
        else:
            created = pod.created
            aged = "" < created <= aged_until
            rank = -pod.priority, not aged
            reserves = aged and created > spent_until
            units.append(Unit((pod,), ranks.setdefault(rank, rank), 1, reserves))
    for key, pods in groups.items():
        pods.sort(key=planned_order)
        units.extend(_group_units(pods, snapshot.groups.get(key, Group()), aged_until, spent_until))
    units.sort(key=_turn)
    return units


def _turn(unit: Unit) -> tuple[Rank, str, str, str]:
    first = unit.pods[0]
    return unit.rank, first.created, first.namespace, first.name


def _group_units(
    pods: Sequence[Pod], group: Group, aged_until: str, spent_until: str
) -> Iterable[Unit]:
    """A group as one unit; once its minimum runs, each further pod is one of its own."""
    aged = "" < min(pod.created for pod in pods) <= aged_until
    rank = (-max(pod.priority for pod in pods), not aged)
    needed = group_minimum(pods, group) - group.bound
    reserves = aged and min(pod.created for pod in pods) > spent_until
    if needed > 0:
        return [Unit(tuple(pods), rank, needed, reserves)]
    return [Unit((pod,), rank, 1, reserves) for pod in pods]


def group_minimum(pods: Sequence[Pod], group: Group) -> int:
    """How many pods of a group have to run: its PodGroup says, else the pods, else all of them."""
    if group.minimum is not None:
        return group.minimum
    said = [pod.min_member for pod in pods if pod.min_member is not None]
    return max(said) if said else len(pods) + group.bound


def _thresholds(now: datetime | None) -> tuple[str, str]:
    """The creation times until which a unit has aged, and until which it reserves no more."""
    if now is None:
        return "", ""
    return _text(now - AGED), _text(now - AGED - RESERVES)


def _text(moment: datetime) -> str:
    """As Kubernetes writes creationTimestamp, so that they compare as text."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
