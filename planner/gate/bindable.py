"""Whose slices can be bound now: the pods whose gates may go, in planned order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import ConditionType, GpuStatus, LayoutStatus, NodeLayout, SliceState
from mpslice.slices import SliceSize
from planner.model.nodes import Node
from planner.model.plan import Placement, Plan
from planner.model.pods import Pod
from planner.state.standing import spec_was_refused

T = TypeVar("T")

Seat = tuple[str, GpuUuid, SliceSize]
"""A slice of a size on a GPU of a node."""


def is_offered(place: Placement, layout: NodeLayout | None, node: Node | None) -> bool:
    """Whether free slices for the pod are listed on its GPUs and shown by the node."""
    if layout is None or node is None or layout.spec.release or layout.status is None:
        return False
    free = Counter(
        (gpu.uuid, s.id.size)
        for gpu in layout.status.gpus
        if gpu.healthy
        for s in gpu.slices
        if s.state is SliceState.FREE
    )
    wanted = Counter(zip(place.gpus, place.pod.seats, strict=True))
    return (
        layout.status.is_true(ConditionType.READY)
        and wanted <= free
        and all(node.slices.get(size) for size in place.pod.seats)
    )


class Bindable:
    """The free slices that stand, as the layouts' and the nodes' status say, and this plan's part.

    Bindable is what a layout's status lists as free and the node's status shows: the second drops
    to 0 when the agent is away, and a pod bound then would fail the kubelet's admission.
    """

    def __init__(
        self,
        made: Plan,
        layouts: Mapping[str, NodeLayout],
        nodes: Sequence[Node],
        pods: Iterable[Pod],
    ) -> None:
        self._made = made
        self._carved: Counter[Seat] = Counter()
        self._shown = _shown(nodes, pods)
        leaving = set(_gone(nodes, layouts, self._shown))
        for name, layout in layouts.items():
            for gpu, free, kept in _free_slices(made, layout):
                for size, count in free.items():
                    self._carved[name, gpu.uuid, size] = kept[size]
                    if kept[size] < count:
                        leaving.add((name, size))
        self.leaving = frozenset(leaving)
        """Nodes and sizes of which the scheduler still sees a free slice that is to be withdrawn or
        that has been withdrawn a moment ago."""

    def split(self) -> tuple[list[Placement], list[Placement]]:
        """The placements whose slices are all bindable now, and those that wait; in planned order.

        To be asked once: each slice is given to one pod.
        """
        ready: list[Placement] = []
        waiting: list[Placement] = []
        for placement in self._made.placements:
            (ready if self._take(placement) else waiting).append(placement)
        return ready, waiting

    def _take(self, placement: Placement) -> bool:
        """Gives the slices to the placement if they are all there."""
        node, sizes = placement.node, placement.pod.seats
        seats = [(node, gpu, size) for gpu, size in zip(placement.gpus, sizes, strict=True)]
        shown = [(node, size) for size in sizes]
        if not (_holds(self._carved, seats) and _holds(self._shown, shown)):
            return False
        self._carved.subtract(seats)
        self._shown.subtract(shown)
        return True


def _holds(counts: Counter[T], wanted: list[T]) -> bool:
    if len(wanted) == 1:
        return counts[wanted[0]] > 0
    return all(counts[item] >= count for item, count in Counter(wanted).items())


def _free_slices(
    made: Plan, layout: NodeLayout
) -> Iterator[tuple[GpuStatus, Counter[SliceSize], Counter[SliceSize]]]:
    """The free slices of each healthy GPU that has any, and those of them that are to stay.

    Withdrawn is what this plan leaves out, and also what a spec leaves out that the agent has not
    acknowledged or is still trying to apply.
    """
    status = layout.status or LayoutStatus()
    at_work = status.observed_generation < layout.generation or spec_was_refused(layout)
    wanted = {gpu.uuid: gpu.slices for gpu in layout.spec.gpus} if at_work else {}
    planned = made.layouts.get(layout.name, {})
    for gpu in status.gpus:
        free = Counter(s.id.size for s in gpu.slices if s.state is SliceState.FREE)
        if free and gpu.healthy:
            kept = free
            limits = [s for s in (wanted.get(gpu.uuid), planned.get(gpu.uuid)) if s is not None]
            if limits:
                used = Counter(s.id.size for s in gpu.slices) - free
                left = {size: min(slices.get(size, 0) for slices in limits) for size in free}
                kept = free & Counter({size: left[size] - used[size] for size in free})
            yield gpu, free, kept


def _gone(
    nodes: Iterable[Node],
    layouts: Mapping[str, NodeLayout],
    shown: Mapping[tuple[str, SliceSize], int],
) -> Iterator[tuple[str, SliceSize]]:
    """Nodes and sizes with fewer slices in the layout's status than in the node's, and room there.

    The agent writes both at the same time, and the kubelet may write the node's again: either can
    be the first that the planner sees. Only where there is room are slices counted, on few nodes.
    """
    for node in nodes:
        layout = layouts.get(node.name)
        with_room = [size for size in node.slices if shown.get((node.name, size), 0) > 0]
        if layout is None or layout.status is None or not with_room:
            continue
        listed = Counter(s.id.size for gpu in layout.status.gpus for s in gpu.slices)
        for size in with_room:
            if node.slices[size] > listed[size]:
                yield node.name, size


def _shown(nodes: Iterable[Node], pods: Iterable[Pod]) -> Counter[tuple[str, SliceSize]]:
    """Slices that the scheduler still sees room for: the nodes' status less all that is bound."""
    shown = Counter(
        {(node.name, size): count for node in nodes for size, count in node.slices.items()}
    )
    for pod in pods:
        if pod.node and pod.claims and not pod.finished:
            shown.subtract((pod.node, size) for size in pod.seats)
    return shown
