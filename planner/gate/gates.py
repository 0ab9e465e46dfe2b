"""Whose scheduling gate goes and whose stays, besides whether the slices are there.

A group goes together, and what is held back for someone else stays: once a gate is gone, the
scheduler binds the pod to any free slice of its size, whoever that slice is meant for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mpslice.slices import SliceSize
from planner.feasibility.nodes import node_refusal
from planner.model import Cause, Group, NodeState, Placement, Pod, Refusal, Reservation
from planner.packing.order import group_minimum, planned_order
from planner.words.explain import gpus_text

Groups = Mapping[str, Group]


def whole_groups(
    ready: Iterable[Placement],
    waiting: Iterable[Placement],
    refused: Iterable[Refusal],
    groups: Groups,
) -> tuple[list[Placement], list[Placement]]:
    """Moves those of `ready` whose group is not complete yet to `waiting`.

    Complete: the members that are bound, ungated already or have bindable slices reach the
    minimum. So a group that was half let go when a planner ended is completed by the next.
    """
    ready, waiting = list(ready), list(waiting)
    members: dict[str, list[Pod]] = {}
    for pod in (*(p.pod for p in (*ready, *waiting)), *(r.pod for r in refused)):
        if pod.group:
            members.setdefault(pod.group_key, []).append(pod)
    there = Counter(p.pod.group_key for p in ready if p.pod.group)
    there.update(p.pod.group_key for p in waiting if p.pod.group and not p.pod.gated)
    complete: set[str] = set()
    for key, pods in members.items():
        group = groups.get(key, Group())
        if group.bound + there[key] >= group_minimum(pods, group):
            complete.add(key)
    early = [p for p in ready if p.pod.group and p.pod.gated and p.pod.group_key not in complete]
    held = {placement.pod.key for placement in early}
    return [p for p in ready if p.pod.key not in held], [*early, *waiting]


def keeps_gate(refusal: Refusal, groups: Groups) -> bool:
    """Whether a pod that has no place stays gated: its group does not run, or a place is held."""
    if refusal.own is not None:
        return True
    pod = refusal.pod
    if not pod.group:
        return False
    group = groups.get(pod.group_key, Group())
    return group.bound < group_minimum([pod], group)


def hold_back(
    refusals: Iterable[Refusal], reservations: Sequence[Reservation], states: Sequence[NodeState]
) -> tuple[Refusal, ...]:
    """Marks as Reserved the gated pods that could take what comes free on someone's reserved GPUs.

    That is: younger ones that may use the node and ask for a size which stands there.
    """
    if not reservations:
        return tuple(refusals)
    by_name = {state.node.name: state for state in states}
    kept = [
        (reservation, by_name[reservation.node], standing_sizes(reservation, by_name))
        for reservation in reservations
        if reservation.node in by_name
    ]
    return tuple(_hold_back(refusal, kept) for refusal in refusals)


def _hold_back(
    refusal: Refusal, kept: Sequence[tuple[Reservation, NodeState, frozenset[SliceSize]]]
) -> Refusal:
    pod = refusal.pod
    if refusal.own is not None or not pod.gated:
        return refusal
    for reservation, state, sizes in kept:
        if (
            planned_order(pod) > planned_order(reservation.pod)
            and not sizes.isdisjoint(pod.seats)
            and node_refusal(pod.constraints, state.node) is None
        ):
            note = f"{gpus_text(state, reservation.gpus)} is kept for {reservation.pod.key}"
            return replace(refusal, own=Cause.RESERVED, note=note)
    return refusal


def standing_sizes(
    reservation: Reservation, states: Mapping[str, NodeState]
) -> frozenset[SliceSize]:
    """The sizes of which a slice stands, used or free, on the reserved GPUs."""
    state = states.get(reservation.node)
    gpus = [gpu for gpu in state.gpus if gpu.uuid in reservation.gpus] if state else []
    return frozenset(size for gpu in gpus for size in (*gpu.used, *gpu.free))
