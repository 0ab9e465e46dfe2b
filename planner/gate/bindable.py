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
        nodes: Iterable[Node],
        bound: Mapping[str, Sequence[Pod]],
    ) -> None:
        """`bound` are all pods that have a node and have not finished, by its name."""
        self._made = made
        self._layouts = layouts
        self._nodes = {node.name: node for node in nodes}
        self._bound = bound
        self._counted: set[str] = set()
        self._carved: Counter[Seat] = Counter()  # of the nodes that were counted
        self._shown: Counter[tuple[str, SliceSize]] = Counter()
        self.leaving = frozenset((*self._gone(), *self._withdrawn()))
        """Nodes and sizes of which a free slice is to be withdrawn, or is withdrawn while the node
        still shows it."""

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
        self._count(node)
        seats = [(node, gpu, size) for gpu, size in zip(placement.gpus, sizes, strict=True)]
        shown = [(node, size) for size in sizes]
        if not (_holds(self._carved, seats) and _holds(self._shown, shown)):
            return False
        self._carved.subtract(seats)
        self._shown.subtract(shown)
        return True

    def _count(self, name: str) -> None:
        """Has the free slices of a node counted: most nodes are nobody's place in a plan."""
        if name in self._counted:
            return
        self._counted.add(name)
        for size in self._node_slices(name):
            self._shown[name, size] = self._seen_free(name, size)
        if name in self._layouts:
            for gpu, _, kept in _free_slices(self._made, self._layouts[name]):
                for size, count in kept.items():
                    self._carved[name, gpu.uuid, size] = count

    def _node_slices(self, name: str) -> Mapping[SliceSize, int]:
        node = self._nodes.get(name)
        return {} if node is None else node.slices

    def _seen_free(self, name: str, size: SliceSize) -> int:
        """Slices that the scheduler still sees room for: the node's status less what is bound."""
        taken = sum(pod.seats.count(size) for pod in self._bound.get(name, ()) if pod.claims)
        return self._node_slices(name).get(size, 0) - taken

    def _withdrawn(self) -> Iterator[tuple[str, SliceSize]]:
        """Where free slices stand that are not to stay."""
        for name, layout in self._layouts.items():
            if name in self._made.layouts or _at_work(layout):
                for _, free, kept in _free_slices(self._made, layout):
                    yield from ((name, size) for size, count in free.items() if kept[size] < count)

    def _gone(self) -> Iterator[tuple[str, SliceSize]]:
        """Nodes and sizes with fewer slices in the layout's status than in the node's, and room.

        The agent writes the layout's status with the node's or after it, and the kubelet may write
        the node's again: either can be the first that the planner sees.
        """
        for name, node in self._nodes.items():
            layout = self._layouts.get(name)
            if layout is None or layout.status is None:
                continue
            listed = layout.status.listed
            for size, count in node.slices.items():
                if count > listed.get(size, 0) and self._seen_free(name, size) > 0:
                    yield name, size


def _holds(counts: Counter[T], wanted: list[T]) -> bool:
    if len(wanted) == 1:
        return counts[wanted[0]] > 0
    return all(counts[item] >= count for item, count in Counter(wanted).items())


def _at_work(layout: NodeLayout) -> bool:
    """Whether the agent has not acknowledged the spec, or is still trying to apply it."""
    status = layout.status or LayoutStatus()
    return status.observed_generation < layout.generation or spec_was_refused(layout)


def _free_slices(
    made: Plan, layout: NodeLayout
) -> Iterator[tuple[GpuStatus, Counter[SliceSize], Counter[SliceSize]]]:
    """The free slices of each healthy GPU that has any, and those of them that are to stay.

    Withdrawn is what this plan leaves out, and also what a spec leaves out that the agent has not
    acknowledged or is still trying to apply.
    """
    status = layout.status or LayoutStatus()
    wanted = {gpu.uuid: gpu.slices for gpu in layout.spec.gpus} if _at_work(layout) else {}
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
