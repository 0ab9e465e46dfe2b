"""Sentences for people: what the Events on a pod and the CLI say about a placement or a refusal."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from mpslice.gpus import GpuUuid
from mpslice.slices import size_label
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Refusal, Reservation
from planner.model.pods import Pod

_NAMED: Final = 5
"""Pods that are named one by one."""

_OWN: Final = {
    Cause.GROUP: "the pods of its group do not fit all together",
    Cause.RESERVED: "what would fit is kept for a pod that has waited longer",
    Cause.VOLUME: "a volume of it does not exist",
    Cause.BACKOFF: "it was refused where it was planned",
    Cause.GATED: "it waits for another scheduling gate",
}


def sizes_text(pod: Pod) -> str:
    """`20gb`, or `3 x 10gb + 20gb` for a pod that holds several slices."""
    return " + ".join(
        size_label(size) if number == 1 else f"{number} x {size_label(size)}"
        for size, number in sorted(Counter(pod.seats).items())
    )


def refusal_text(refusal: Refusal, node_label: str) -> str:
    """`20gb: 0 of 4 nodes: 2 GPUMemory (largest hole 12gb on n3 GPU 1), 1 CPU (wants 64, …), …`.

    A cause of the pod itself goes first: `20gb: Reserved (…), 0 of 5 nodes: …`; where it says all,
    nothing follows: `4gb: Group (group g has 1 of 3 pods; create 2 more)`.
    """
    head = f"{sizes_text(refusal.pod)}: "
    if refusal.own is Cause.NO_NODE:
        return f"{head}0 of 0 nodes: no node is labelled {node_label}"
    if refusal.own is not None:
        own = f"{refusal.own} ({refusal.note or _OWN[refusal.own]})"
        if not refusal.causes:
            return head + own
        head += f"{own}, "
    details = dict(refusal.details)
    causes = (
        _cause_text(refusal, cause, count, details.get(cause, ""))
        for cause, count in refusal.by_weight
    )
    return f"{head}0 of {refusal.nodes} nodes: " + ", ".join(causes)


def _cause_text(refusal: Refusal, cause: Cause, count: int, detail: str) -> str:
    if cause is Cause.GPU_MEMORY and refusal.hole is not None:
        gb, node, index = refusal.hole
        hole = f"largest hole {gb}gb on {node} GPU {index}"
        detail = f"{hole}; {detail}" if detail else hole
    return f"{count} {cause} ({detail})" if detail else f"{count} {cause}"


def reservation_text(reservation: Reservation, states: Mapping[str, NodeState]) -> str:
    """`waits for n3 GPU 1, which is kept for it`; where the pod preempts, `waits for the end of
    pods a/x, a/y on n3 GPU 1, which is kept for it`.
    """
    where = gpus_text(states[reservation.node], reservation.gpus)
    if not reservation.after:
        return f"waits for {where}, which is kept for it"
    names = reservation.after[:_NAMED]
    more = len(reservation.after) - len(names)
    pods = "pod" if len(reservation.after) == 1 else "pods"
    named = ", ".join(names) + (f" and {more} more" if more else "")
    return f"waits for the end of {pods} {named} on {where}, which is kept for it"


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
