"""What is left of one node and of one GPU in a plan, and what pods were given there.

Mutable on purpose and private to a plan. A GPU knows only how much is claimed, not in which order
or by what means: whether a claim takes a free slice or carves one follows from the sums, so claims
can be taken back in any order, and nothing has to be copied to try something.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.model.nodes import Gpu, NodeState

NOTHING: Final[dict[SliceSize, int]] = {}
"""What most GPUs have of something: the same for all, and nobody writes into it."""

NOBODY: Final[dict[str, int]] = {}
"""Likewise, of the spread groups on a GPU."""


class Index(Protocol):
    """Where the GPUs of nodes are indexed by what is left of them."""

    def add(self, gpu: "GpuBook") -> None:
        """Indexes a GPU as it is now."""

    def remove(self, gpu: "GpuBook") -> None:
        """Takes a GPU out that is as it was when it was added."""

    def moved(self, gpu: "GpuBook", before: int) -> None:
        """Indexes a GPU again on which nothing stood from the start; `before` was uncarved."""

    def unblock(self, node: "NodeBook") -> None:
        """Looks at a node again that refused everybody who asks here."""


class GpuBook:
    """One GPU in a plan; memory in gb.

    `claims` counts the slices that pods of this plan were given, by size; `free` what stands there
    and nobody has claimed. `room` is what is neither used, claimed nor held, so a free slice is
    part of it: it goes when its memory is needed. It is negative where more is held than is left,
    which the node's room does not count. `uncarved` is room beside all that stands, `reclaimable`
    the largest slice that could stand here if every free one went; both are 0 when another slice
    would be one too many. `held` is what reservations keep: (gb, slices).
    `members` counts slices by the spread groups of those who hold them, or whom they are given or
    kept for.
    """

    __slots__ = (
        "claims",
        "count",
        "free",
        "free_count",
        "free_gb",
        "held",
        "limit",
        "members",
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
        self.held = (0, 0)
        self.members = NOBODY if not gpu.members else dict.fromkeys(gpu.members, 1)
        room, count = gpu.capacity, 0
        for size, number in gpu.used.items():
            room -= size * number
            count += number
        self.room = room
        self.count = count  # used, claimed and held
        node.room += room
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

    def _settle(self) -> None:
        """Derives what is asked for more often than it changes."""
        if self.count >= self.limit:
            self.uncarved = self.reclaimable = 0
            return
        self.reclaimable = self.uncarved = max(0, self.room)
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
        if self.free or self.count >= self.limit:
            self._settle()
        else:
            self.reclaimable = self.uncarved = room

    def unclaim(self, size: SliceSize) -> None:
        """Takes one claim of the size back."""
        self._make_room(size)
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

    def hold(self, gb: int, slices: int) -> None:
        """Keeps memory and slices for a pod that does not fit yet; negative amounts end that."""
        self.held = (self.held[0] + gb, self.held[1] + slices)
        self._make_room(-gb)
        self.count += slices
        self._settle()

    def _make_room(self, gb: int) -> None:
        """Adds to the room, and to the node's as far as it is not negative."""
        before, self.room = self.room, self.room + gb
        self.node.room += max(0, self.room) - max(0, before)

    def mark(self, group: str, sign: int) -> None:
        """Notes that a pod of a spread group has a slice here, or has it no more."""
        left = self.members.get(group, 0) + sign
        others = {key: count for key, count in self.members.items() if key != group}
        self.members = {**others, group: left} if left else others

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

    def withdrawn(self, wanted: Mapping[SliceSize, int], more: int = 0) -> list[SliceSize]:
        """The free slices that have to go for what is claimed, and a slice of `more` gb beside it.

        As few as possible: the smallest that suffices alone, else the largest and on; those that no
        pending pod asks for (`wanted`, by size) go first. What turns out not to be needed stays.
        """
        held_gb, held_slices = self.held
        lacking = self.free_gb - self.room - held_gb + more
        too_many = self.count - held_slices + self.free_count - self.limit + (more > 0)
        if (lacking <= 0 and too_many <= 0) or not (more or self.carved()):
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


class NodeBook:
    """One node in a plan: what is left of it, and its GPUs.

    `carved` counts the claims on them that no free slice meets: with one, the node is written.
    """

    __slots__ = (
        "blocked_in",
        "carved",
        "cpu",
        "ephemeral",
        "extended",
        "gpus",
        "indexes",
        "level",
        "memory",
        "name",
        "order",
        "pods",
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
        self.indexes: list[Index] = []  # where its GPUs are indexed
        self.blocked_in: list[Index] = []  # which do not look at it, until something comes free
        self.carved = 0
        self.room = 0  # gb, of all GPUs
        self.standing = False  # whether anything that nobody has stood there from the start
        self.level = 0  # how much it has left compared with what pods ask for (Levels)

    def sketch(self) -> "NodeBook":
        """What is left here, for trying what would fit; without the GPUs."""
        copy = NodeBook(self.state, self.order)
        copy.cpu, copy.memory, copy.ephemeral = self.cpu, self.memory, self.ephemeral
        copy.extended, copy.pods, copy.ports = dict(self.extended), self.pods, set(self.ports)
        return copy
