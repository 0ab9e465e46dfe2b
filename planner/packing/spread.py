"""Pods of spread groups keep the places that a plan gives them until they are bound.

No two pods of such a group may share a GPU, so which of a node's free slices a pod takes matters,
and a place cannot be found again by its node alone. So it is noted on the pod, and a group whose
pods all have theirs is placed there before all others, as if they were bound already.
"""

from dataclasses import replace

from planner.feasibility.nodes import node_refusal
from planner.model.plan import Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing.fit import place_group
from planner.packing.ledger import Seating
from planner.packing.state import State


def places(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The snapshot in which the pods of spread groups keep the places that the plan gives them."""
    kept = {p.pod.key: (p.node, p.gpus) for p in made.placements if p.pod.spread}
    return replace(snapshot, kept=kept) if kept or snapshot.kept else snapshot


def keep_places(state: State, snapshot: Snapshot) -> None:
    """Places a unit where it was if enough of its pods still have their places: as many as the unit
    needs.
    """
    kept = snapshot.kept
    if not kept:
        return

    def there(pod: Pod) -> Seating | None:
        return _seat(state, pod, snapshot) if pod.key in kept else None

    for number, unit in enumerate(state.units):
        members = state.members(number)
        if sum(pod.key in kept for pod in members) < unit.needed or not state.may_go(number):
            continue
        if place_group(state, number, members, there):
            state.fix((number,))


def _seat(state: State, pod: Pod, snapshot: Snapshot) -> Seating | None:
    name, uuids = snapshot.kept[pod.key]
    node, pods = state.reach.by_name.get(name), state.class_of(pod)
    if node is None or node_refusal(pod.constraints, node.state.node) is not None:
        return None
    by_uuid = {gpu.uuid: gpu for gpu in node.gpus}
    gpus = tuple([by_uuid[uuid] for uuid in uuids if uuid in by_uuid])
    if len(gpus) < len(pods.seats) or len(uuids) != len(pods.seats) or not pods.fits(node):
        return None
    claimed = []
    for size, gpu in zip(pods.seats, gpus, strict=True):
        if gpu.reclaimable < size or not pods.may_share(gpu):
            break
        gpu.claim(size)
        claimed.append((gpu, size))
    for gpu, size in claimed:
        gpu.unclaim(size)
    return state.book(pod, pods, node, gpus) if len(claimed) == len(gpus) else None
