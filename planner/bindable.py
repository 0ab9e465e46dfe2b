"""Whose slices can be bound now: the pods whose gates may go, in planned order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import GpuStatus, LayoutStatus, NodeLayout, SliceState
from mpslice.slices import SliceSize
from planner.model import Node, Placement, Plan, Pod
from planner.standing import spec_was_refused

Seat = tuple[str, GpuUuid, SliceSize]
"""A slice of a size on a GPU of a node."""


def split_by_bindable(
    made: Plan, layouts: Mapping[str, NodeLayout], nodes: Iterable[Node], pods: Iterable[Pod]
) -> tuple[list[Placement], list[Placement]]:
    """The placements whose slices are all bindable now, and those that wait; in planned order.

    Bindable is what the layout's status lists as free and the node's status shows: the second
    drops to 0 when the agent is away, and a pod bound then would fail the kubelet's admission.
    """
    carved = _carved(made, layouts)
    shown = _shown(nodes, pods)
    ready: list[Placement] = []
    waiting: list[Placement] = []
    for placement in made.placements:
        node, sizes = placement.node, placement.pod.seats
        seats = Counter((node, gpu, size) for gpu, size in zip(placement.gpus, sizes, strict=True))
        counts = Counter((node, size) for size in sizes)
        if seats <= carved and counts <= shown:
            carved.subtract(seats)
            shown.subtract(counts)
            ready.append(placement)
        else:
            waiting.append(placement)
    return ready, waiting


def leaving(made: Plan, layouts: Mapping[str, NodeLayout]) -> frozenset[tuple[str, SliceSize]]:
    """Nodes and sizes of which a free slice stands that is to be withdrawn: the scheduler still
    sees it."""
    return frozenset(
        (name, size)
        for name, layout in layouts.items()
        for gpu, kept in _kept(made, layout)
        for size in _free(gpu) - kept
    )


def _carved(made: Plan, layouts: Mapping[str, NodeLayout]) -> Counter[Seat]:
    """Free slices that the status lists and that nobody is about to withdraw."""
    return Counter(
        {
            (name, gpu.uuid, size): count
            for name, layout in layouts.items()
            for gpu, kept in _kept(made, layout)
            for size, count in kept.items()
        }
    )


def _kept(made: Plan, layout: NodeLayout) -> Iterator[tuple[GpuStatus, Counter[SliceSize]]]:
    """The free slices of each healthy GPU that are to stay.

    Withdrawn is what this plan leaves out, and also what a spec leaves out that the agent has not
    acknowledged or is still trying to apply.
    """
    status = layout.status or LayoutStatus()
    at_work = status.observed_generation < layout.generation or spec_was_refused(layout)
    wanted = {gpu.uuid: gpu.slices for gpu in layout.spec.gpus} if at_work else {}
    planned = made.layouts.get(layout.name, {})
    for gpu in status.gpus:
        if gpu.healthy:
            kept = Counter(s.id.size for s in gpu.slices)
            used = kept - _free(gpu)
            for slices in (wanted.get(gpu.uuid), planned.get(gpu.uuid)):
                if slices is not None:
                    kept &= Counter(dict(slices))
            yield gpu, kept - used


def _free(gpu: GpuStatus) -> Counter[SliceSize]:
    return Counter(s.id.size for s in gpu.slices if s.state is SliceState.FREE)


def _shown(nodes: Iterable[Node], pods: Iterable[Pod]) -> Counter[tuple[str, SliceSize]]:
    """Slices that the scheduler still sees room for: the nodes' status less all that is bound."""
    shown = Counter(
        {(node.name, size): count for node in nodes for size, count in node.slices.items()}
    )
    for pod in pods:
        if pod.node and pod.claims and not pod.finished:
            shown.subtract((pod.node, size) for size in pod.seats)
    return shown
