"""What a pod lacks on a node and its GPUs, and what the end of other pods gives of it.

Amounts are told apart by what they are of: for each GPU gb and slices, then CPU, memory, ephemeral
storage, the number of pods and extended resources of the node.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from planner.model.preemption import Holder
from planner.packing.books import GpuBook, NodeBook
from planner.packing.classes import PodClass
from planner.packing.ledger import Part

Thing = tuple[str, GpuBook | NodeBook]
"""What a node or a GPU has an amount of."""


class Room:
    """What a pod wants of a node and its GPUs, and what is there: for each GPU gb and slices, then
    what is of the node. `promised` is what others of the plan wait for of what comes free.
    """

    def __init__(
        self,
        pods: PodClass,
        node: NodeBook,
        gpus: Sequence[GpuBook],
        promised: Counter[Thing],
    ) -> None:
        self._node = node
        self._spread = pods.spread
        self._gpus = list(dict.fromkeys(gpus))
        self._promised = promised
        wants = pods.pod.requests
        gb, slices = gb_wanted(pods, gpus), Counter(gpus)
        self._names = [name for name, amount in wants.extended if amount]
        extended = dict(wants.extended)
        self._wants = (
            *(gb[gpu] for gpu in self._gpus),
            *(slices[gpu] for gpu in self._gpus),
            wants.cpu_milli,
            wants.memory,
            wants.ephemeral,
            1,
            *(extended[name] for name in self._names),
        )
        self._has = (
            *(gpu.room for gpu in self._gpus),
            *(gpu.limit - gpu.count for gpu in self._gpus),
            node.cpu,
            node.memory,
            node.ephemeral,
            node.pods,
            *(node.extended.get(name, 0) for name in self._names),
        )
        self._things: tuple[Thing, ...] = (
            *(("gb", gpu) for gpu in self._gpus),
            *(("slices", gpu) for gpu in self._gpus),
            *((name, node) for name in ("cpu", "memory", "ephemeral-storage", "pods")),
            *((name, node) for name in self._names),
        )

    def lacking(self, ending: Iterable[Holder]) -> tuple[int, ...]:
        """What is lacking once these have ended. Of what a pod does not ask for nothing is."""
        frees = self._frees(ending)
        each = zip(self._wants, self._has, frees, strict=True)
        return tuple([max(0, wants - has - more) if wants else 0 for wants, has, more in each])

    def concerned(self, holders: Sequence[Holder], lacking: Sequence[int]) -> Sequence[Holder]:
        """Those of the holders whose end may give something that is lacking."""
        if any(lacking[2 * len(self._gpus) :]):
            return holders
        uuids = {gpu.uuid for gpu in self._gpus}
        return [h for h in holders if any(uuid in uuids for uuid, _ in h.slices)]

    def promise(self, ending: Iterable[Holder]) -> Part:
        """Promises the pod what it wants of what comes free, and returns what is to be kept for it
        of what is there.
        """
        kept = []
        for thing, wants, more in zip(self._things, self._wants, self._frees(ending), strict=True):
            promised = min(wants, max(0, more))
            self._promised[thing] += promised
            kept.append(wants - promised)
        number = len(self._gpus)
        gb, slices, (cpu, memory, ephemeral, pods, *others) = (
            kept[:number],
            kept[number : 2 * number],
            kept[2 * number :],
        )
        gpus = tuple(zip(self._gpus, gb, slices, strict=True))
        extended = tuple(zip(self._names, others, strict=True))
        return Part(self._node, gpus, cpu, memory, ephemeral, pods, extended, self._spread)

    def gives(self, holder: Holder, lacking: Sequence[int]) -> tuple[int, ...]:
        """What the end of the pod gives of what is lacking."""
        return tuple([min(a, b) for a, b in zip(self._of(holder), lacking, strict=True)])

    def _frees(self, ending: Iterable[Holder]) -> list[int]:
        """What comes free with the end of these and nobody waits for yet."""
        frees = [-self._promised[thing] for thing in self._things]
        for holder in ending:
            for index, amount in enumerate(self._of(holder)):
                frees[index] += amount
        return frees

    def _of(self, holder: Holder) -> tuple[int, ...]:
        on = [[size for uuid, size in holder.slices if uuid == gpu.uuid] for gpu in self._gpus]
        if holder.pod.finished:  # of the node it takes nothing any more
            return (*map(sum, on), *map(len, on), 0, 0, 0, 0, *(0 for _ in self._names))
        takes = holder.pod.requests
        extended = dict(takes.extended)
        return (
            *map(sum, on),
            *map(len, on),
            takes.cpu_milli,
            takes.memory,
            takes.ephemeral,
            1,
            *(extended.get(name, 0) for name in self._names),
        )


def gb_wanted(pods: PodClass, gpus: Sequence[GpuBook]) -> Counter[GpuBook]:
    """The GB that a pod wants of each GPU; `gpus` by seat."""
    wanted: Counter[GpuBook] = Counter()
    for size, gpu in zip(pods.seats, gpus, strict=True):
        wanted[gpu] += size
    return wanted
