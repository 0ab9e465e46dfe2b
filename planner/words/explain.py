"""Sentences for people: what the Events on a pod and the CLI say about a placement or a refusal."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from mpslice.gpus import GpuUuid
from mpslice.slices import size_label
from planner.model import Cause, NodeState, Placement, Pod, Refusal, Reservation

_OWN: Final = {
    Cause.GROUP: "the pods of its group do not fit all together",
    Cause.RESERVED: "what would fit is kept for a pod that has waited longer",
    Cause.GATED: "it waits for another scheduling gate",
}


def sizes_text(pod: Pod) -> str:
    """`20gb`, or `3 x 10gb + 20gb` for a pod that holds several slices."""
    return " + ".join(
        size_label(size) if number == 1 else f"{number} x {size_label(size)}"
        for size, number in sorted(Counter(pod.seats).items())
    )


def refusal_text(refusal: Refusal, node_label: str) -> str:
    """`20gb: 0 of 5 nodes: 2 GPUMemory (largest hole 12gb on n3 GPU 1), 2 NodeAffinity, 1 CPU`.

    A cause of the pod itself goes first: `20gb: Reserved (n3 GPU 1 is kept for a/b), 0 of 5 nodes`.
    """
    head = f"{sizes_text(refusal.pod)}: {_own_text(refusal)}0 of {refusal.nodes} nodes"
    if not refusal.causes:
        return f"{head}: no node is labelled {node_label}"
    return f"{head}: " + ", ".join(_cause_text(refusal, c, n) for c, n in refusal.by_weight)


def _own_text(refusal: Refusal) -> str:
    if refusal.own is None:
        return ""
    return f"{refusal.own} ({refusal.note or _OWN[refusal.own]}), "


def _cause_text(refusal: Refusal, cause: Cause, count: int) -> str:
    if cause is not Cause.GPU_MEMORY or refusal.hole is None:
        return f"{count} {cause}"
    gb, node, index = refusal.hole
    return f"{count} {cause} (largest hole {gb}gb on {node} GPU {index})"


def reservation_text(reservation: Reservation, states: Mapping[str, NodeState]) -> str:
    """`waits for n3 GPU 1, which is kept for it`."""
    where = gpus_text(states[reservation.node], reservation.gpus)
    return f"waits for {where}, which is kept for it"


def gpus_text(state: NodeState, gpus: Iterable[GpuUuid]) -> str:
    """`n3 GPU 1`, or `n3 GPU 0, 1` for several."""
    index = {gpu.uuid: gpu.index for gpu in state.gpus}
    indexes = sorted(index[gpu] for gpu in gpus if gpu in index)
    return f"{state.node.name} GPU {', '.join(map(str, indexes))}"


def placement_text(placement: Placement, states: Mapping[str, NodeState]) -> str:
    """`20gb on n3, GPU 1`; several slices joined by semicolons. `states` by node name."""
    index = {gpu.uuid: gpu.index for gpu in states[placement.node].gpus}
    return "; ".join(
        f"{size_label(size)} on {placement.node}, GPU {index[gpu]}"
        for size, gpu in zip(placement.pod.seats, placement.gpus, strict=True)
    )
