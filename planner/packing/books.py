"""What is left of one node and of one GPU in a planning pass, and what pods were given there.

Mutable on purpose and private to a pass. A GPU knows only how much is claimed, not in which order
or by what means: whether a claim takes a free slice or carves one follows from the sums, so claims
can be taken back in any order, which is what lets a search move pods about without copying nodes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.model import Gpu, NodeState

if TYPE_CHECKING:
    from planner.packing.pools import Pool

NOTHING: Final[dict[SliceSize, int]] = {}
"""What most GPUs have of something: the same for all, and nobody writes into it."""


class GpuBook:
    """One GPU in a pass; memory in gb.

    `claims` counts the slices that pods of this pass were given, by size; `free` what stands there
    and nobody has claimed. `room` is what is neither used nor claimed, so a free slice is part of
    it: it goes when its memory is needed. `uncarved` is room beside all that stands, `reclaimable`
    the largest slice that could stand here if every free one went; both are 0 when another slice
    would be one too many.
    """

    __slots__ = (
        "claims",
        "closed",
        "count",
        "free",
        "free_count",
        "free_gb",
        "limit",
        "node",
        "order",
        "reclaimable",
        "room",
        "start",
        "uncarved",
        "uuid",
    )

    def __init__(self, gpu: Gpu, node: "NodeBook", order: int, limit: int) -> None:
        self.start = gpu
        self.uuid: GpuUuid = gpu.uuid
        self.node = node
        self.order = order
        self.limit = limit  # slices at most
        self.claims = self.free = NOTHING
        self.free_gb = self.free_count = 0
        room, count = gpu.capacity, 0
        for size, number in gpu.used.items():
            room -= size * number
            count += number
        self.room = room
        self.count = count  # used and claimed
        node.room += room
        self.closed = False  # reserved: nobody gets anything here any more
        self.reclaimable = self.uncarved = room if count < limit else 0
        if gpu.free:
            self.free = {size: number for size, number in gpu.free.items() if number > 0}
            node.standing |= bool(self.free)
            self.free_gb = sum(size * number for size, number in self.free.items())
            self.free_count = sum(self.free.values())
            self._settle()

    @property
    def index(self) -> int:
        return self.start.index

    @property
    def capacity(self) -> int:
        return self.start.capacity

    def close(self) -> None:
        """From now on nobody gets anything here."""
        self.closed = True
        self._settle()

    def _settle(self) -> None:
        """Derives what is asked for more often than it changes."""
        if self.closed or self.count >= self.limit:
            self.uncarved = self.reclaimable = 0
            return
        self.reclaimable = self.uncarved = self.room
        if self.free:
            beside = self.room - self.free_gb
            full = beside <= 0 or self.count + self.free_count >= self.limit
            self.uncarved = 0 if full else beside

    def claim(self, size: SliceSize) -> None:
        """Gives a slice of the size to a pod; the caller has seen that there is room."""
        node = self.node
        self.room = room = self.room - size
        node.room -= size
        self.count += 1
        if self.claims:
            self.claims[size] = self.claims.get(size, 0) + 1
        else:
            self.claims = {size: 1}
        if size in self.free:
            self._set_free(size, self.free[size] - 1)
        else:
            node.carved += 1
        if self.free or self.closed or self.count >= self.limit:
            self._settle()
        else:
            self.reclaimable = self.uncarved = room

    def unclaim(self, size: SliceSize) -> None:
        """Takes one claim of the size back."""
        self.room += size
        self.node.room += size
        self.count -= 1
        left = self.claims[size] - 1
        if left >= self.start.free.get(size, 0):
            self.node.carved -= 1
        else:
            self._set_free(size, self.free.get(size, 0) + 1)
        if left:
            self.claims[size] = left
        else:
            del self.claims[size]
        self._settle()

    def _set_free(self, size: SliceSize, number: int) -> None:
        change = number - self.free.get(size, 0)
        self.free_count += change
        self.free_gb += change * size
        if number:
            self.free[size] = number
        else:
            del self.free[size]

    def layout(self, wanted: Mapping[SliceSize, int]) -> Slices:
        """Every slice that is to exist here: used, claimed, and free ones that stay. Not to be
        written into: where nothing changes it is the snapshot's own.
        """
        used = self.start.used
        if not self.claims and not self.free:
            return used
        total = dict(used)
        for size, number in self.claims.items():
            total[size] = total.get(size, 0) + number
        if not self.free:
            return total
        for size, number in self.free.items():
            total[size] = total.get(size, 0) + number
        for size in self.withdrawn(wanted):
            total[size] -= 1
        return {size: number for size, number in total.items() if number > 0}

    def carved(self) -> int:
        """How many claims no free slice meets."""
        taken = sum(number for number in self.start.free.values() if number > 0) - self.free_count
        return sum(self.claims.values()) - taken

    def withdrawn(self, wanted: Mapping[SliceSize, int]) -> list[SliceSize]:
        """The free slices that have to go for what is claimed: as few as possible.

        The smallest that suffices alone, else the largest and on; those that no pending pod asks
        for (`wanted`, by size) go first. What turns out not to be needed stays.
        """
        lacking = self.free_gb - self.room
        too_many = self.count + self.free_count - self.limit
        if not self.carved() or (lacking <= 0 and too_many <= 0):
            return []
        left = [size for size, number in self.free.items() for _ in range(number)]
        left.sort(key=lambda size: (wanted.get(size, 0) > 0, size))
        chosen: list[SliceSize] = []
        while left and (lacking > 0 or too_many > 0):
            pick = next((size for size in left if size >= lacking), None) or max(
                left, key=lambda size: (wanted.get(size, 0) == 0, size)
            )
            left.remove(pick)
            chosen.append(pick)
            lacking -= pick
            too_many -= 1
        return _needed(chosen, lacking, too_many)


def _needed(chosen: Sequence[SliceSize], lacking: int, too_many: int) -> list[SliceSize]:
    """Those that have to go; together they leave `lacking` gb and `too_many` slices, 0 or less."""
    needed: list[SliceSize] = []
    for size in chosen:
        if lacking + size <= 0 and too_many < 0:
            lacking += size
            too_many += 1
        else:
            needed.append(size)
    return needed


def have_room(seats: Sequence[SliceSize], gpus: Sequence[GpuBook]) -> bool:
    """Whether the GPUs, one for each seat, can hold them all, free slices withdrawn if need be."""
    gb: Counter[int] = Counter()
    for size, gpu in zip(seats, gpus, strict=True):
        gb[gpu.order] += size
    counts = Counter(gpu.order for gpu in gpus)
    return all(
        gpu.reclaimable >= gb[gpu.order] and gpu.count + counts[gpu.order] <= gpu.limit
        for gpu in gpus
    )


class NodeBook:
    """One node in a pass: what is left of it, and its GPUs.

    `carved` counts the claims on them that no free slice meets: with one, the node is written.
    """

    __slots__ = (
        "carved",
        "cpu",
        "ephemeral",
        "extended",
        "gpus",
        "level",
        "memory",
        "name",
        "order",
        "pods",
        "pools",
        "ports",
        "room",
        "standing",
        "state",
    )

    def __init__(self, state: NodeState, order: int) -> None:
        self.state = state
        self.name = state.node.name
        self.order = order
        idle = state.idle
        self.cpu, self.memory, self.ephemeral = idle.cpu_milli, idle.memory, idle.ephemeral
        self.extended = dict(idle.extended)
        self.pods = state.idle_pods
        self.ports = set(state.ports)
        self.gpus: list[GpuBook] = []
        self.pools: list[Pool] = []  # where its GPUs are indexed
        self.carved = 0
        self.room = 0  # gb, of all GPUs
        self.standing = False  # whether anything that nobody has stood there from the start
        self.level = 0  # how much it has left compared with what pods ask for (pools.Levels)

    def sketch(self) -> "NodeBook":
        """What is left here, for trying what would fit; without the GPUs."""
        copy = NodeBook(self.state, self.order)
        copy.cpu, copy.memory, copy.ephemeral = self.cpu, self.memory, self.ephemeral
        copy.extended, copy.pods, copy.ports = dict(self.extended), self.pods, set(self.ports)
        return copy
