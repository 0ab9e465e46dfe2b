"""Lets pods of spread groups go one group at a time where slices of their size stand.

The scheduler chooses the node and counts slices by size; which of them a pod gets is settled on the
node, where nobody is told for which pod it is asked. So while pods of such a group are on their way
to a node, no others are let go to slices of that size there: whichever of the free ones suits the
group is then left for it (nodeagent/slices/spread.py chooses).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mpslice.nodelayout import NodeLayout, SliceState
from mpslice.slices import SliceSize
from planner.model.plan import Placement
from planner.model.pods import Pod

_Door = tuple[str, SliceSize]
"""A node and a size of slices there."""


def one_group_at_a_time(
    ready: Sequence[Placement],
    waiting: Sequence[Placement],
    pods: Sequence[Pod],
    layouts: Mapping[str, NodeLayout],
) -> tuple[list[Placement], list[Placement]]:
    """Returns `ready` and `waiting` anew: placements that have to wait for a turn are waiting.

    `pods` are all pods of the cluster. A spread group goes to a node once no other pods are under
    way to slices of its sizes there. From then on no other pods go there until it has arrived.
    """
    nodes = {p.node for p in (*ready, *waiting) if p.pod.spread}
    nodes.update(pod.node for pod in pods if pod.spread and pod.node and not pod.finished)
    if not nodes:
        return list(ready), list(waiting)
    there = {name: layouts[name] for name in nodes if name in layouts}
    ungated = [p for p in (*ready, *waiting) if not p.pod.gated]
    under_way = _under_way(ungated, pods, there)
    turn: dict[_Door, str] = {}
    for door, whose in under_way.items():
        spread = sorted(key for key in whose if key)
        if spread:
            turn[door] = spread[0]
    held: set[str] = set()
    for key, members in _by_turn(ready).items():
        doors = {door for placement in members for door in _doors(placement)}
        free = all(
            turn.get(door, key) == key and under_way.get(door, {key}) <= {key} for door in doors
        )
        for door in doors:
            turn.setdefault(door, key)
        if not free:
            held.update(placement.pod.key for placement in members)
    for placement in ready:
        if not placement.pod.spread and any(door in turn for door in _doors(placement)):
            held.add(placement.pod.key)
    early = [p for p in ready if p.pod.gated and p.pod.key in held]
    return [p for p in ready if not (p.pod.gated and p.pod.key in held)], [*early, *waiting]


def _by_turn(ready: Iterable[Placement]) -> dict[str, list[Placement]]:
    """The placements of spread groups that have their gates, by what goes together."""
    found: dict[str, list[Placement]] = {}
    for placement in ready:
        if placement.pod.spread and placement.pod.gated:
            found.setdefault(_whose(placement.pod), []).append(placement)
    return found


def _whose(pod: Pod) -> str:
    """What pods have in common that may be on their way together.

    A pod of several slices goes alone: the node would have to know which of them go together.
    """
    return pod.spread_key if len(pod.seats) < 2 else (pod.spread and pod.key) or ""


def _doors(placement: Placement) -> set[_Door]:
    return {(placement.node, size) for size in placement.pod.seats}


def _under_way(
    ungated: Iterable[Placement], pods: Iterable[Pod], layouts: Mapping[str, NodeLayout]
) -> dict[_Door, set[str]]:
    """The spread groups, and "" for other pods, that are under way to slices of a size on a node.

    Those are pods without a gate that have a place there, and pods that are bound there and are
    not seen to hold their slices yet.
    """
    found: dict[_Door, set[str]] = {}
    for placement in ungated:
        for door in _doors(placement):
            found.setdefault(door, set()).add(_whose(placement.pod))
    held = {name: _held(layout) for name, layout in layouts.items()}
    for pod in pods:
        if pod.node in held and pod.seats and not pod.finished:
            for size in Counter(pod.seats) - held[pod.node].get(pod.key, Counter()):
                found.setdefault((pod.node, size), set()).add(_whose(pod))
    return found


def _held(layout: NodeLayout) -> dict[str, Counter[SliceSize]]:
    """The slices by the pods that are seen to hold them."""
    held: dict[str, Counter[SliceSize]] = {}
    for gpu in layout.status.gpus if layout.status is not None else ():
        for entry in gpu.slices:
            if entry.state is SliceState.USED and entry.pod:
                held.setdefault(entry.pod, Counter())[entry.id.size] += 1
    return held
