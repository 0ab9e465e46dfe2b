"""Sentences for people: what the Events on a pod and the CLI say about a placement or a refusal."""

from mpslice.slices import size_label
from planner.model import Cause, Placement, Pod, Refusal, Snapshot


def sizes_text(pod: Pod) -> str:
    """`20gb`, or `10gb + 20gb` for a pod that holds several slices."""
    return " + ".join(size_label(size) for size in sorted(pod.seats))


def refusal_text(refusal: Refusal, node_label: str) -> str:
    """`20gb: 0 of 5 nodes: 2 GPUMemory (largest hole 12gb on n3 GPU 1), 2 NodeAffinity, 1 CPU`."""
    head = f"{sizes_text(refusal.pod)}: 0 of {refusal.nodes} nodes"
    if not refusal.causes:
        return f"{head}: no node is labelled {node_label}"
    return f"{head}: " + ", ".join(_cause_text(refusal, c, n) for c, n in refusal.by_weight)


def _cause_text(refusal: Refusal, cause: Cause, count: int) -> str:
    if cause is not Cause.GPU_MEMORY or refusal.hole is None:
        return f"{count} {cause}"
    gb, node, index = refusal.hole
    return f"{count} {cause} (largest hole {gb}gb on {node} GPU {index})"


def placement_text(placement: Placement, snapshot: Snapshot) -> str:
    """`20gb on n3, GPU 1`; several slices joined by semicolons."""
    state = next(s for s in snapshot.nodes if s.node.name == placement.node)
    index = {gpu.uuid: gpu.index for gpu in state.gpus}
    return "; ".join(
        f"{size_label(size)} on {placement.node}, GPU {index[gpu]}"
        for size, gpu in zip(placement.pod.seats, placement.gpus, strict=True)
    )
