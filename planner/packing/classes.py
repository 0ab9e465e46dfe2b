"""Pods that are alike: what decides where a pod fits, derived once for all pods of one class."""

from collections.abc import Hashable, Iterable, Iterator, Sequence

from mpslice.slices import SliceSize
from planner.feasibility.relations import RelationBook
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.packing.books import GpuBook, NodeBook
from planner.packing.filters import ANYTHING, Filter, filters


class PodClass:
    """What pods of one class need; gb, thousandths of a CPU, bytes. They share their fate.

    `plain`: CPU, memory and the number of pods are all that has to be looked at on a node. `spread`
    is their `Pod.spread_key`.
    """

    __slots__ = (
        "_every",
        "common",
        "cpu",
        "demands",
        "failed_at",
        "gb",
        "largest",
        "level",
        "memory",
        "number",
        "others",
        "plain",
        "pod",
        "pods",
        "seating_order",
        "seats",
        "single",
        "spread",
    )

    def __init__(
        self, pod: Pod, number: int, every: Sequence[Filter], relations: RelationBook
    ) -> None:
        wants = pod.requests
        self.pod = pod  # a sample
        self.number = number
        self.pods = 0  # how many are pending
        self.seats = pod.seats
        self.largest: SliceSize = max(pod.seats)
        self.gb = sum(pod.seats)
        self.single = len(pod.seats) == 1
        self.spread = pod.spread_key
        self.seating_order = sorted(range(len(pod.seats)), key=lambda seat: -pod.seats[seat])
        self.cpu = wants.cpu_milli or ANYTHING
        self.memory = wants.memory or ANYTHING
        self.demands = relations.alike(pod) if relations.active else None
        self._every = every
        asks_for_more = wants.ephemeral or wants.extended or pod.ports or pod.volume_topology
        self.plain = not (asks_for_more or pod.avoid or self.demands is not None)
        self.others = () if self.plain else tuple(self._concerned(quick=False))
        self.level = 0
        self.failed_at: Hashable = None  # the state's `moment` in which it fitted nowhere
        # What pods that share an index of their own have in common; () where all of it is plain.
        several = pod.seats if not self.single else ()
        shared = not self.plain and any(each.shared for each in self.others)
        self.common: tuple[Hashable, ...] = (
            (
                several,
                self.spread,
                frozenset(pod.ports),
                wants.ephemeral,
                wants.extended,
                pod.volume_topology,
                self.demands,
            )
            if shared or several
            else ()
        )

    def _concerned(self, *, quick: bool) -> Iterator[Filter]:
        """The filters that concern such pods, with or without those that `fits` does by itself."""
        for each in self._every:
            if each.concerns(self.pod) and (quick or not each.quick):
                yield each

    def fits(self, node: NodeBook) -> bool:
        """Whether the node has all that a pod of this class needs besides GPU memory."""
        return (
            node.cpu >= self.cpu
            and node.memory >= self.memory
            and node.pods > 0
            and (self.plain or self.obstacle(node) is None)
        )

    def obstacle(self, node: NodeBook) -> Filter | None:
        """The first filter that refuses, of those that `fits` does not look at by itself."""
        for each in self.others:
            if each.refuses(self.pod, node) is not None:
                return each
        return None

    def may_share(self, gpu: GpuBook) -> bool:
        """Whether the GPU has no other pod of their group, if they are to be spread."""
        return not self.spread or self.spread not in gpu.members

    def refused_by(self, node: NodeBook) -> tuple[Cause, Filter] | None:
        """What the node lacks besides GPU memory, the first in the order of the causes."""
        for each in self._concerned(quick=True):
            cause = each.refuses(self.pod, node)
            if cause is not None:
                return cause, each
        return None

    def take(self, node: NodeBook, sign: int = 1) -> None:
        """Books what a pod of this class needs on the node; with sign -1 gives it back."""
        wants = self.pod.requests
        node.cpu -= sign * wants.cpu_milli
        node.memory -= sign * wants.memory
        node.pods -= sign
        if not self.plain:
            for each in self.others:
                each.take(self.pod, node, sign)


def classes_of(
    pods: Iterable[Pod], relations: RelationBook
) -> tuple[list[PodClass], dict[int, PodClass]]:
    """All classes, and the class of each pod by its id(): that is told most quickly.

    Records are compared field by field: hashing them whole is slower.
    """
    every = filters(relations)
    known: dict[Hashable, PodClass] = {}
    found: dict[int, PodClass] = {}
    for pod in pods:
        wants, constraints = pod.requests, pod.constraints
        key = (
            pod.seats,
            wants.cpu_milli,
            wants.memory,
            wants.ephemeral,
            wants.extended,
            constraints.node_selector,
            constraints.affinity,
            constraints.tolerations,
            constraints.gb,
            pod.ports,
            pod.avoid,
            pod.volume_topology,
            relations.alike(pod) if relations.active else None,
            pod.spread_key if pod.spread else "",
        )
        alike = known.get(key)
        if alike is None:
            alike = known[key] = PodClass(pod, len(known), every, relations)
        alike.pods += 1
        found[id(pod)] = alike
    return list(known.values()), found
