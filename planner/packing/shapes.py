"""Pods that are alike: what decides where a pod fits, derived once for all pods of one shape."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mpslice.slices import SliceSize
from planner.feasibility.nodes import ports_clash
from planner.feasibility.relations import RelationBook
from planner.model import Cause, Pod
from planner.packing.books import NodeBook

if TYPE_CHECKING:
    from planner.packing.pools import Pool

_ANYTHING: Final = -(1 << 62)
"""Below whatever a node has left: who asks for none of a resource fits an overcommitted node too,
as in kube-scheduler (plugins/noderesources/fit.go, fitsRequest)."""


class Shape:
    """What pods of one shape need; gb, thousandths of a CPU, bytes. They share their fate.

    `plain`: CPU, memory and the number of pods are all that has to be looked at on a node.
    """

    __slots__ = (
        "cpu",
        "failed_at",
        "gb",
        "largest",
        "lasting",
        "level",
        "memory",
        "plain",
        "pod",
        "pool",
        "relations",
        "seating_order",
        "seats",
        "single",
    )

    pool: "Pool"
    """The GPUs that it may use; set once all shapes are known."""

    def __init__(self, pod: Pod, relations: RelationBook) -> None:
        wants = pod.requests
        self.pod = pod  # a sample
        self.seats = pod.seats
        self.largest: SliceSize = max(pod.seats)
        self.gb = sum(pod.seats)
        self.single = len(pod.seats) == 1
        self.seating_order = sorted(range(len(pod.seats)), key=lambda seat: -pod.seats[seat])
        self.cpu = wants.cpu_milli or _ANYTHING
        self.memory = wants.memory or _ANYTHING
        related = relations.active and relations.alike(pod) is not None
        self.relations = relations if related else None
        self.plain = not (wants.ephemeral or wants.extended or pod.ports or pod.avoid or related)
        self.level = 0
        self.failed_at = -1  # the ledger's epoch in which it fitted nowhere
        # Whether what fits nowhere fits nowhere until something is taken back.
        self.lasting = not (related and relations.may_come_to_fit(pod))

    def fits(self, node: NodeBook) -> bool:
        """Whether the node has all that a pod of this shape needs besides GPU memory."""
        return (
            node.cpu >= self.cpu
            and node.memory >= self.memory
            and node.pods > 0
            and (self.plain or self.refused_by(node) is None)
        )

    def refused_by(self, node: NodeBook) -> Cause | None:
        """What the node lacks besides GPU memory, the first in the order of the causes."""
        pod, wants = self.pod, self.pod.requests
        if node.name in pod.avoid:
            return Cause.NODE_AFFINITY  # what the scheduler saw and we did not: mostly volumes
        if pod.ports and ports_clash(pod.ports, node.ports):
            return Cause.HOST_PORT
        if node.cpu < self.cpu:
            return Cause.CPU
        if node.memory < self.memory:
            return Cause.MEMORY
        if wants.ephemeral and node.ephemeral < wants.ephemeral:
            return Cause.EPHEMERAL_STORAGE
        if node.pods < 1:
            return Cause.PODS
        if any(amount > node.extended.get(name, 0) for name, amount in wants.extended if amount):
            return Cause.EXTENDED_RESOURCE
        return self.relations.refuses(pod, node.name) if self.relations is not None else None

    def take(self, node: NodeBook, sign: int = 1) -> None:
        """Books what a pod of this shape needs on the node; with sign -1 gives it back."""
        wants = self.pod.requests
        node.cpu -= sign * wants.cpu_milli
        node.memory -= sign * wants.memory
        node.pods -= sign
        if self.plain:
            return
        node.ephemeral -= sign * wants.ephemeral
        for name, amount in wants.extended:
            node.extended[name] = node.extended.get(name, 0) - sign * amount
        if sign > 0:
            node.ports.update(self.pod.ports)
        else:
            node.ports.difference_update(self.pod.ports)


def shapes_of(pods: Iterable[Pod], relations: RelationBook) -> dict[int, Shape]:
    """The shape of each pod, by its id(): that is told most quickly.

    Records are compared field by field: hashing them whole is slower.
    """
    known: dict[object, Shape] = {}
    found: dict[int, Shape] = {}
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
            pod.ports,
            pod.avoid,
            relations.alike(pod) if relations.active else None,
        )
        shape = known.get(key)
        if shape is None:
            shape = known[key] = Shape(pod, relations)
        found[id(pod)] = shape
    return found
