"""The bookkeeping of one planning pass: what is left of every node and GPU, with an undo log.

Mutable on purpose and private to a pass: copying thousands of nodes for every try is what makes
other planners slow. Everything that `seat` takes, `undo` gives back in reverse order.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from mpslice.slices import SliceSize
from planner.feasibility import (
    asks_for_names,
    label_keys,
    node_refusal,
    ports_clash,
)
from planner.model import Cause, Constraints, Gpu, Layout, NodeState, Pod, Resources, Snapshot

Undo = Callable[[], None]


class GpuBook:
    """One GPU in a pass. `free` are slices that stand and nobody has claimed, in this pass either.

    `claimed` are the slices that pods of this pass were given. All memory in gb.
    """

    __slots__ = (
        "capacity",
        "changed",
        "claimed",
        "free",
        "free_count",
        "free_gb",
        "index",
        "node",
        "order",
        "slices",
        "start",
        "uncarved",
        "uuid",
    )

    def __init__(self, gpu: Gpu, node: "NodeBook", order: int) -> None:
        self.uuid, self.index, self.capacity = gpu.uuid, gpu.index, gpu.capacity
        self.node = node
        self.order = order
        self.start = gpu
        self.free: Counter[SliceSize] = Counter(gpu.free)
        self.claimed: Counter[SliceSize] = Counter()
        self.free_count = sum(gpu.free.values())
        self.free_gb = sum(size * n for size, n in gpu.free.items())
        used = sum(size * n for size, n in gpu.used.items())
        self.uncarved = gpu.capacity - used - self.free_gb
        self.slices = sum(gpu.used.values()) + self.free_count
        self.changed = 0  # carves and withdrawals in this pass

    @property
    def room(self) -> int:
        """The largest slice that could stand here if every unclaimed one went."""
        return self.uncarved + self.free_gb

    def layout(self) -> dict[SliceSize, int]:
        """Every slice that is to exist: used, claimed and free."""
        total = Counter(self.start.used) + self.claimed + self.free
        return {size: total[size] for size in sorted(total)}


class NodeBook:
    """One node in a pass: what is left of it, and its GPUs."""

    __slots__ = (
        "cpu",
        "ephemeral",
        "extended",
        "gpus",
        "kind",
        "memory",
        "pods",
        "ports",
        "state",
        "touched",
    )

    def __init__(self, state: NodeState, kind: int) -> None:
        self.state = state
        self.kind = kind
        self.cpu, self.memory = state.idle.cpu_milli, state.idle.memory
        self.ephemeral = state.idle.ephemeral
        self.extended = dict(state.idle.extended)
        self.pods = state.idle_pods
        self.ports = set(state.ports)
        self.gpus: list[GpuBook] = []
        self.touched = 0

    @property
    def name(self) -> str:
        return self.state.node.name

    def refuses(self, pod: Pod) -> Cause | None:
        """What the node lacks for the pod besides GPU memory, in the order of the causes."""
        wants = pod.requests
        if pod.ports and ports_clash(pod.ports, self.ports):
            return Cause.HOST_PORT
        if wants.cpu_milli and wants.cpu_milli > self.cpu:
            return Cause.CPU
        if wants.memory and wants.memory > self.memory:
            return Cause.MEMORY
        if wants.ephemeral and wants.ephemeral > self.ephemeral:
            return Cause.EPHEMERAL_STORAGE
        if self.pods < 1:
            return Cause.PODS
        if any(amount > self.extended.get(name, 0) for name, amount in wants.extended if amount):
            return Cause.EXTENDED_RESOURCE
        return None

    def take(self, pod: Pod, sign: int = 1) -> None:
        """Books the pod's resources; with sign -1 gives them back."""
        self._book(pod.requests, sign)
        self.pods -= sign
        if sign > 0:
            self.ports.update(pod.ports)
        else:
            self.ports.difference_update(pod.ports)

    def _book(self, wants: Resources, sign: int) -> None:
        self.cpu -= sign * wants.cpu_milli
        self.memory -= sign * wants.memory
        self.ephemeral -= sign * wants.ephemeral
        for name, amount in wants.extended:
            self.extended[name] = self.extended.get(name, 0) - sign * amount


class RoomIndex:
    """GPUs by a whole number of gb, to walk from the smallest that suffices (best fit).

    A bit of `_mask` says which amounts occur, so the next one is found with two integer operations.
    """

    __slots__ = ("_buckets", "_mask")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[int, GpuBook]] = {}
        self._mask = 0

    def add(self, amount: int, gpu: GpuBook) -> None:
        if amount > 0:
            self._buckets.setdefault(amount, {})[gpu.order] = gpu
            self._mask |= 1 << amount

    def remove(self, amount: int, gpu: GpuBook) -> None:
        if amount > 0:
            bucket = self._buckets[amount]
            del bucket[gpu.order]
            if not bucket:
                self._mask ^= 1 << amount

    def smallest(self, at_least: int) -> int | None:
        """The smallest amount that occurs and suffices."""
        rest = self._mask >> at_least
        return at_least + (rest & -rest).bit_length() - 1 if rest else None

    def at(self, amount: int) -> Iterable[GpuBook]:
        return self._buckets[amount].values()


class Ledger:
    """Everything that is left, indexed for best fit, and the log that takes steps back."""

    def __init__(self, snapshot: Snapshot, pending: Iterable[Pod]) -> None:
        pending = tuple(pending)
        self.max_slices = snapshot.max_slices_per_gpu
        self.wanted = Counter(size for pod in pending for size in pod.seats)
        self.withdrawn = 0
        self.nodes: list[NodeBook] = []
        self._log: list[Undo] = []
        self._uncarved: list[RoomIndex] = []
        self._room: list[RoomIndex] = []
        self._free: list[dict[SliceSize, dict[int, GpuBook]]] = []
        self._samples: list[NodeState] = []  # one node of each kind: alike for every pending pod
        self._kinds: dict[Constraints, tuple[int, ...]] = {}
        self._load(snapshot, pending)

    def _load(self, snapshot: Snapshot, pending: tuple[Pod, ...]) -> None:
        keys, by_name = sorted(label_keys(pending)), asks_for_names(pending)
        kinds: dict[object, int] = {}
        order = 0
        for state in sorted(snapshot.nodes, key=lambda state: state.node.name):
            node = state.node
            signature = (
                tuple(node.labels.get(key) for key in keys),
                node.taints,
                node.unschedulable,
                node.ready,
                node.name if by_name else "",
            )
            kind = kinds.setdefault(signature, len(kinds))
            if kind == len(self._samples):
                self._samples.append(state)
                self._uncarved.append(RoomIndex())
                self._room.append(RoomIndex())
                self._free.append({})
            book = NodeBook(state, kind)
            self.nodes.append(book)
            for gpu in state.gpus:
                book.gpus.append(GpuBook(gpu, book, order))
                self._index(book.gpus[-1])
                order += 1

    def kinds_for(self, constraints: Constraints) -> tuple[int, ...]:
        """The kinds of node that the pod may use by their identity."""
        known = self._kinds.get(constraints)
        if known is None:
            known = self._kinds[constraints] = tuple(
                kind
                for kind, sample in enumerate(self._samples)
                if node_refusal(constraints, sample.node) is None
            )
        return known

    def with_free(self, size: SliceSize, kinds: Iterable[int]) -> Iterator[GpuBook]:
        """GPUs on which a slice of the size stands and is nobody's."""
        for kind in kinds:
            yield from self._free[kind].get(size, {}).values()

    def with_uncarved(self, size: int, kinds: Iterable[int]) -> Iterator[GpuBook]:
        """GPUs with room beside all that stands there, tightest first."""
        return _walk(self._uncarved, size, kinds)

    def with_room(self, size: int, kinds: Iterable[int]) -> Iterator[GpuBook]:
        """GPUs with room once free slices are withdrawn, tightest first."""
        return _walk(self._room, size, kinds)

    def mark(self) -> int:
        """A point to come back to with `undo`."""
        return len(self._log)

    def undo(self, mark: int) -> None:
        """Takes back everything since `mark`."""
        while len(self._log) > mark:
            self._log.pop()()

    def book_pod(self, node: NodeBook, pod: Pod) -> None:
        """Takes the pod's CPU, memory and the rest off the node."""
        node.take(pod)
        self._log.append(lambda: node.take(pod, -1))

    def claim_free(self, gpu: GpuBook, size: SliceSize) -> None:
        """Gives a standing free slice to a pod."""
        self._change(gpu, free={size: -1}, claimed={size: 1})

    def carve(self, gpu: GpuBook, size: SliceSize) -> None:
        """Makes a slice for a pod, withdrawing free ones as far as there is need."""
        for victim in self.victims(gpu, size):
            self._change(gpu, free={victim: -1}, uncarved=victim, slices=-1, changed=1)
            self._count_withdrawn(1)
        self._change(gpu, claimed={size: 1}, uncarved=-size, slices=1, changed=1)

    def victims(self, gpu: GpuBook, size: int) -> list[SliceSize]:
        """The free slices that have to go for a new one: as few as possible.

        The smallest that suffices alone, else the largest and on; those that no pending pod asks
        for go first.
        """
        lacking = size - gpu.uncarved
        too_many = gpu.slices + 1 - self.max_slices
        if lacking <= 0 and too_many <= 0:
            return []
        free = sorted(gpu.free.elements(), key=lambda s: (self.wanted[s] > 0, s))
        chosen: list[SliceSize] = []
        while free and (lacking > 0 or too_many > 0):
            enough = [s for s in free if s >= lacking]
            pick = enough[0] if enough else free[-1]
            free.remove(pick)
            chosen.append(pick)
            lacking -= pick
            too_many -= 1
        return chosen

    def can_carve(self, gpu: GpuBook, size: int) -> bool:
        """Whether memory and the number of slices allow another slice, free ones withdrawn."""
        standing = gpu.slices - gpu.free_count
        return size <= gpu.uncarved + gpu.free_gb and standing < self.max_slices

    def layout(self, node: NodeBook) -> Layout:
        return {gpu.uuid: gpu.layout() for gpu in node.gpus}

    def _count_withdrawn(self, count: int) -> None:
        self.withdrawn += count
        self._log.append(lambda: self._uncount(count))

    def _uncount(self, count: int) -> None:
        self.withdrawn -= count

    def _change(
        self,
        gpu: GpuBook,
        *,
        free: dict[SliceSize, int] | None = None,
        claimed: dict[SliceSize, int] | None = None,
        uncarved: int = 0,
        slices: int = 0,
        changed: int = 0,
    ) -> None:
        free, claimed = free or {}, claimed or {}
        self._apply(gpu, free, claimed, uncarved, slices, changed, 1)
        self._log.append(lambda: self._apply(gpu, free, claimed, uncarved, slices, changed, -1))

    def _apply(
        self,
        gpu: GpuBook,
        free: dict[SliceSize, int],
        claimed: dict[SliceSize, int],
        uncarved: int,
        slices: int,
        changed: int,
        sign: int,
    ) -> None:
        self._unindex(gpu)
        for size, count in free.items():
            gpu.free[size] += sign * count
            gpu.free_count += sign * count
            gpu.free_gb += sign * count * size
        for size, count in claimed.items():
            gpu.claimed[size] += sign * count
        gpu.uncarved += sign * uncarved
        gpu.slices += sign * slices
        gpu.changed += sign * changed
        gpu.node.touched += sign * changed
        self._index(gpu)

    def _index(self, gpu: GpuBook) -> None:
        kind = gpu.node.kind
        self._uncarved[kind].add(gpu.uncarved, gpu)
        if gpu.free_gb:
            self._room[kind].add(gpu.room, gpu)
            for size, count in gpu.free.items():
                if count > 0:
                    self._free[kind].setdefault(size, {})[gpu.order] = gpu

    def _unindex(self, gpu: GpuBook) -> None:
        kind = gpu.node.kind
        self._uncarved[kind].remove(gpu.uncarved, gpu)
        if gpu.free_gb:
            self._room[kind].remove(gpu.room, gpu)
            for size, count in gpu.free.items():
                if count > 0:
                    del self._free[kind][size][gpu.order]


def _walk(indexes: list[RoomIndex], at_least: int, kinds: Iterable[int]) -> Iterator[GpuBook]:
    """GPUs of several kinds from the tightest amount on; kinds in order within an amount."""
    kinds = tuple(kinds)
    floor = at_least
    while True:
        found = [(indexes[kind].smallest(floor), kind) for kind in kinds]
        amounts = [amount for amount, _ in found if amount is not None]
        if not amounts:
            return
        tightest = min(amounts)
        for amount, kind in found:
            if amount == tightest:
                yield from indexes[kind].at(tightest)
        floor = tightest + 1


def gpu_refusal(node: NodeBook, pod: Pod, ledger: Ledger) -> Cause:
    """Why the GPUs of a node that holds the pod otherwise cannot hold its slices."""
    largest = max(pod.seats)
    if all(gpu.capacity < largest for gpu in node.gpus):
        return Cause.GPU_TOO_SMALL
    with_memory = [gpu for gpu in node.gpus if gpu.room >= largest]
    if with_memory and not any(ledger.can_carve(gpu, largest) for gpu in with_memory):
        return Cause.GPU_SLOTS
    return Cause.GPU_MEMORY
