"""Keeps what comes free on reserved GPUs from pods that have no gate any more.

Such a pod is bound to any free slice of its size, the moment that another pod's end frees one. So a
free slice on reserved GPUs that is not the holder's is withdrawn; and of each other size that is
used there one gated pod, the guard, keeps its gate and is nominated: kube-scheduler leaves it the
slice that comes free, and the planner withdraws that. All others that wait are let go, so that
autoscalers see them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.feasibility.nodes import node_refusal
from planner.model.nodes import Layout, NodeState
from planner.model.plan import Cause, Plan, Refusal, Reservation
from planner.model.snapshot import Snapshot
from planner.packing.order import planned_order
from planner.words.explain import gpus_text
from planner.writes.actions import Nominate


def guards(
    refusals: Iterable[Refusal], reservations: Iterable[Reservation], snapshot: Snapshot
) -> tuple[Reservation, ...]:
    """The guards, as reservations of the GPUs that they guard."""
    reservations = tuple(reservations)
    if not reservations:
        return ()
    states = {state.node.name: state for state in snapshot.nodes}
    able = [r.pod for r in refusals if _may_guard(r)]
    able.sort(key=lambda pod: (not pod.nominated, planned_order(pod)))  # a guard stays one
    found: dict[tuple[str, SliceSize], Reservation] = {}
    for reservation, state, size in _guarded(reservations, states):
        for pod in able:
            if (
                pod.seats == (size,)
                and (reservation.node, size) not in found
                and planned_order(pod) > planned_order(reservation.pod)
                and node_refusal(pod.constraints, state.node) is None
            ):
                kept = Reservation(pod, reservation.node, reservation.gpus)
                found[reservation.node, size] = kept
    return tuple(found.values())


def _may_guard(refusal: Refusal) -> bool:
    pod = refusal.pod
    return pod.gated and not pod.group and refusal.own in (None, Cause.RESERVED)


def _guarded(
    reservations: Iterable[Reservation], states: Mapping[str, NodeState]
) -> Iterator[tuple[Reservation, NodeState, SliceSize]]:
    """The sizes that are used on reserved GPUs and that the holder does not ask for."""
    for reservation in reservations:
        state = states.get(reservation.node)
        if state is not None:
            used = {s for gpu in state.gpus if gpu.uuid in reservation.gpus for s in gpu.used}
            for size in sorted(used.difference(reservation.pod.seats)):
                yield reservation, state, size


def guards_still(action: Nominate, leaving: Collection[tuple[str, SliceSize]]) -> bool:
    """Whether the pod guards a slice that is just being withdrawn, for which its nomination must
    not be given up yet.
    """
    pod = action.pod
    return (
        action.node == ""
        and pod.gated
        and any((pod.nominated, size) in leaving for size in pod.seats)
    )


def told(
    refusals: Sequence[Refusal],
    kept: Iterable[Reservation],
    reservations: Iterable[Reservation],
    snapshot: Snapshot,
) -> tuple[Refusal, ...]:
    """The refusals, in which each guard is told what for it keeps its gate."""
    states = {state.node.name: state for state in snapshot.nodes}
    holders = {(r.node, r.gpus): r.pod.key for r in reservations}
    notes = {
        guard.pod.key: f"{gpus_text(states[guard.node], guard.gpus)} is kept for {holder}"
        for guard in kept
        if (holder := holders.get((guard.node, guard.gpus))) is not None
    }
    return tuple(
        replace(r, own=Cause.RESERVED, note=notes[r.pod.key]) if r.pod.key in notes else r
        for r in refusals
    )


def cleared(made: Plan, snapshot: Snapshot) -> Plan:
    """The plan without free slices on reserved GPUs that no pod is given."""
    states = {state.node.name: state for state in snapshot.nodes}
    given: Counter[tuple[str, GpuUuid, SliceSize]] = Counter()
    for place in made.placements:
        given.update((place.node, *seat) for seat in zip(place.gpus, place.pod.seats, strict=True))
    layouts = dict(made.layouts)
    for reservation in made.reservations:
        state = states.get(reservation.node)
        if state is None:
            continue
        before = layouts.get(reservation.node) or _standing(state)
        after = dict(before)
        for gpu in state.gpus:
            if gpu.uuid in reservation.gpus:
                after[gpu.uuid] = {
                    size: left
                    for size, count in before.get(gpu.uuid, {}).items()
                    if (left := _left(reservation, gpu.used, size, count, given, gpu.uuid)) > 0
                }
        if after != before:
            layouts[reservation.node] = after
    return replace(made, layouts=layouts)


def _left(
    reservation: Reservation,
    used: Slices,
    size: SliceSize,
    count: int,
    given: Counter[tuple[str, GpuUuid, SliceSize]],
    gpu: GpuUuid,
) -> int:
    if size in reservation.pod.seats:
        return count
    return min(count, used.get(size, 0) + given[reservation.node, gpu, size])


def _standing(state: NodeState) -> Layout:
    return {gpu.uuid: Counter(dict(gpu.used)) + Counter(dict(gpu.free)) for gpu in state.gpus}
