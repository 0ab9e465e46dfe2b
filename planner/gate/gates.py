"""Which scheduling gates go and which stay, besides whether the slices are there.

A group goes together, and a pod that would take another's slice stays: once a gate is gone, the
scheduler binds the pod to any free slice of its size, whichever pod that slice is meant for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mpslice.slices import SliceSize
from planner.feasibility.nodes import node_refusal
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Refusal, Reservation
from planner.model.pods import Group, Pod
from planner.model.snapshot import Snapshot
from planner.packing.order import group_minimum

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
        if group.there + there[key] >= group_minimum(pods, group):
            complete.add(key)
    early = [p for p in ready if p.pod.group and p.pod.gated and p.pod.group_key not in complete]
    held = {placement.pod.key for placement in early}
    return [p for p in ready if p.pod.key not in held], [*early, *waiting]


def keeps_gate(
    refusal: Refusal, snapshot: Snapshot, reservations: Sequence[Reservation] = ()
) -> bool:
    """Whether a pod that has no place stays gated: its group does not run, or it would take a free
    slice that stands where another pod has reserved the memory.

    A pod of a spread group stays, too: the scheduler would bind it wherever a slice of its size is
    free. All others lose it, so that preemption and autoscalers see them.
    """
    if refusal.own is Cause.GROUP or refusal.pod.spread:
        return True
    if refusal.own is Cause.RESERVED and _could_take(refusal.pod, snapshot, reservations):
        return True
    pod = refusal.pod
    if not pod.group:
        return False
    group = snapshot.groups.get(pod.group_key, Group())
    return group.there < group_minimum([pod], group)


def _could_take(pod: Pod, snapshot: Snapshot, reservations: Sequence[Reservation]) -> bool:
    """Whether a free slice that the pod may use stands on GPUs reserved for another."""
    states = {state.node.name: state for state in snapshot.nodes}
    return any(
        _would_take(pod, states[reservation.node], reservation)
        for reservation in reservations
        if reservation.node in states and reservation.pod.key != pod.key
    )


def _would_take(pod: Pod, state: NodeState, reservation: Reservation) -> bool:
    if node_refusal(pod.constraints, state.node) is not None:
        return False
    free: Counter[SliceSize] = Counter()
    for gpu in state.gpus:
        free.update(gpu.free)
    if not Counter(pod.seats) <= free:
        return False
    reserved = (gpu for gpu in state.gpus if gpu.uuid in reservation.gpus)
    return any(gpu.free.get(size, 0) > 0 for gpu in reserved for size in pod.seats)


def standing_sizes(
    reservation: Reservation, states: Mapping[str, NodeState]
) -> frozenset[SliceSize]:
    """The sizes of which a slice stands, used or free, on the reserved GPUs."""
    state = states.get(reservation.node)
    gpus = [gpu for gpu in state.gpus if gpu.uuid in reservation.gpus] if state else []
    return frozenset(size for gpu in gpus for size in (*gpu.used, *gpu.free))
