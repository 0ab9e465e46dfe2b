"""Whether a node's GPUs can hold a pod's slices, and what they lack if not."""

from collections.abc import Sequence

from planner.model.plan import Cause
from planner.packing.books import GpuBook, NodeBook
from planner.packing.classes import PodClass
from planner.packing.fit import gpus_on


def gpu_refusal(node: NodeBook, pods: PodClass) -> Cause | None:
    """Why the GPUs of a node cannot hold a pod of the class; None where they can.

    They are too small if they were so even when empty. Those with another pod of a group that is to
    be spread do not count.
    """
    largest, gpus = pods.largest, node.gpus
    if all(gpu.capacity < largest for gpu in gpus) or all_capacity(node) < pods.gb:
        return Cause.GPU_TOO_SMALL
    gpus = alone_on(node, pods)
    with_memory = [gpu for gpu in gpus if gpu.room >= largest]
    if not with_memory or node.room < pods.gb:
        return Cause.GPU_MEMORY
    full = all(gpu.count >= gpu.limit for gpu in with_memory)
    if full or sum([max(0, gpu.limit - gpu.count) for gpu in gpus]) < len(pods.seats):
        return Cause.GPU_SLOTS
    if pods.single:
        return None
    return Cause.GPU_MEMORY if gpus_on(node, pods, carve=True) is None else None


def all_capacity(node: NodeBook) -> int:
    """GB of all of the node's GPUs."""
    return sum([gpu.capacity for gpu in node.gpus])


def alone_on(node: NodeBook, pods: PodClass) -> list[GpuBook]:
    """The node's GPUs that have no other pod of the class's group, if that is to be spread."""
    return [gpu for gpu in node.gpus if pods.may_share(gpu)] if pods.spread else node.gpus


def largest_room(gpus: Sequence[GpuBook]) -> GpuBook:
    """The GPU with the most room, the first of them."""
    return min(gpus, key=lambda gpu: (-gpu.room, gpu.index))


def how_many_fit(node: NodeBook, pods: PodClass) -> int:
    """How many of the slices of one pod find room on the node, the largest first."""
    left = [[gpu.room, gpu.limit - gpu.count] for gpu in alone_on(node, pods)]
    fitted = 0
    for seat in pods.seating_order:
        able = [each for each in left if each[0] >= pods.seats[seat] and each[1] > 0]
        if able:
            tightest = min(able)
            tightest[0] -= pods.seats[seat]
            tightest[1] -= 1
            fitted += 1
    return fitted
