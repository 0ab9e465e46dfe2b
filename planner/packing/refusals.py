"""Why the rest cannot be placed: for each shape, how many nodes fail for which cause.

Counted in the state that the plan leads to. Thousands of shapes on thousands of nodes are told
from sorted columns where one cause decides, and node by node only where several do.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from planner.model import Cause, Pod, Refusal
from planner.packing.books import NodeBook
from planner.packing.ledger import Ledger
from planner.packing.pools import Pool
from planner.packing.shapes import Shape

Hole = tuple[int, str, int]
"""Room for a slice in gb, its node, the GPU's index."""

_NO_HOLE: Final = (1, "", 0)  # sorts behind every hole, which sort by -gb


@dataclass(frozen=True, slots=True)
class Reasons:
    """What there is to say of one shape."""

    causes: tuple[tuple[Cause, int], ...]
    hole: Hole | None
    reserved: bool


class Inquest:
    """Answers for every shape; made once the plan stands."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._columns: dict[Pool, _Columns] = {}
        self._known: dict[Shape, Reasons] = {}

    def refusal(self, pod: Pod, own: Cause | None = None, note: str = "") -> Refusal:
        """Why the pod is not placed; `own` and `note` where that is the pod's own doing."""
        reasons = self._reasons(self._ledger.shape(pod))
        if own is None and reasons.reserved:
            own, note = (
                Cause.RESERVED,
                "the room that is left is reserved for a pod that waits longer",
            )
        return Refusal(pod, reasons.causes, reasons.hole, own, note)

    def _reasons(self, shape: Shape) -> Reasons:
        known = self._known.get(shape)
        if known is None:
            known = self._known[shape] = self._find(shape)
        return known

    def _find(self, shape: Shape) -> Reasons:
        columns = self._columns.get(shape.pool)
        if columns is None:
            columns = self._columns[shape.pool] = _Columns(shape.pool)
        counts = self._ledger.reach.causes(shape.pod.constraints)
        hole = columns.count(shape, counts)
        causes = tuple((cause, counts[cause]) for cause in Cause if counts[cause])
        reserved = any(gpu.room >= shape.largest and shape.fits(gpu.node) for gpu in columns.closed)
        return Reasons(causes, hole, reserved)


class _Columns:
    """A pool's nodes by CPU left, and of each suffix the least of what else could decide."""

    def __init__(self, pool: Pool) -> None:
        self.nodes = sorted((node for node in pool.nodes if node.gpus), key=lambda node: node.cpu)
        self.closed = [gpu for gpu in pool.gpus if gpu.closed]
        self._cpu = [node.cpu for node in self.nodes]
        self._memory = _least(node.memory for node in reversed(self.nodes))
        self._pods = _least(node.pods for node in reversed(self.nodes))
        self._capacity = _least(
            max(gpu.capacity for gpu in node.gpus) for node in reversed(self.nodes)
        )
        self._slots = _least(
            min(gpu.limit - gpu.count for gpu in node.gpus) for node in reversed(self.nodes)
        )
        self._all_capacity = _least(_all_capacity(node) for node in reversed(self.nodes))
        self._all_slots = _least(_all_slots(node) for node in reversed(self.nodes))
        holes = (_hole(node) for node in reversed(self.nodes))
        self._holes = list(accumulate(holes, min))

    def count(self, shape: Shape, counts: Counter[Cause]) -> Hole | None:
        """Adds the causes of all nodes to `counts`; the largest hole of those short of memory."""
        first = bisect_left(self._cpu, shape.cpu)
        last = len(self.nodes) - first - 1  # where the suffix ends in the reversed columns
        if not shape.plain or (last >= 0 and self._several(shape, last)):
            return _count_each(self.nodes, shape, counts)
        counts[Cause.CPU] += first
        if last < 0:
            return None
        counts[Cause.GPU_MEMORY] += last + 1
        return _told(self._holes[last])

    def _several(self, shape: Shape, last: int) -> bool:
        return (
            self._memory[last] < shape.memory
            or self._pods[last] < 1
            or self._capacity[last] < shape.largest
            or self._slots[last] < 1
            or self._all_capacity[last] < shape.gb
            or self._all_slots[last] < len(shape.seats)
        )


def _least(values: Iterable[int]) -> list[int]:
    return list(accumulate(values, min))


def _hole(node: NodeBook) -> tuple[int, str, int]:
    return min(((-gpu.room, node.name, gpu.index) for gpu in node.gpus), default=_NO_HOLE)


def _told(hole: tuple[int, str, int]) -> Hole:
    return -hole[0], hole[1], hole[2]


def _count_each(nodes: Sequence[NodeBook], shape: Shape, counts: Counter[Cause]) -> Hole | None:
    holes: list[tuple[int, str, int]] = []
    for node in nodes:
        cause = shape.refused_by(node) or gpu_refusal(node, shape)
        counts[cause] += 1
        if cause is Cause.GPU_MEMORY:
            holes.append(_hole(node))
    return _told(min(holes)) if holes else None


def gpu_refusal(node: NodeBook, shape: Shape) -> Cause:
    """Why the GPUs of a node that holds the pod otherwise cannot hold its slices.

    They are too small if they were so even when empty.
    """
    largest, gpus = shape.largest, node.gpus
    if all(gpu.capacity < largest for gpu in gpus) or _all_capacity(node) < shape.gb:
        return Cause.GPU_TOO_SMALL
    with_memory = [gpu for gpu in gpus if gpu.room >= largest]
    if not with_memory or sum(gpu.room for gpu in gpus) < shape.gb:
        return Cause.GPU_MEMORY
    full = all(gpu.count >= gpu.limit for gpu in with_memory)
    return Cause.GPU_SLOTS if full or _all_slots(node) < len(shape.seats) else Cause.GPU_MEMORY


def _all_capacity(node: NodeBook) -> int:
    return sum(gpu.capacity for gpu in node.gpus)


def _all_slots(node: NodeBook) -> int:
    """How many more slices the node's GPUs may have."""
    return sum(max(0, gpu.limit - gpu.count) for gpu in node.gpus)
