"""What a pod demands of a node besides its identity and its GPUs: one class for each constraint.

A filter says which pods it concerns, whether a node refuses a pod and for which cause, what decides
that (for people), and what it books on the node. `filters` has them in the order in which the first
failure of a node is told. The rules for identity are in planner.feasibility.nodes, those for GPUs
in gpus.py. A filter is `shared` when pods that demand the same get the same answer whatever else
they ask for: then a node that refused one of them is not looked at for the others until something
changes there. It is `reservable` when what it refuses for comes free as pods end, and `quick` when
`PodClass` looks at it and books it by itself.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from mpslice.gpus import MIB
from planner.feasibility.nodes import clashing, ports_clash, reaches_volumes
from planner.feasibility.relations import RelationBook
from planner.model.constraints import Resources
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.packing.books import NodeBook

ANYTHING: Final = -(1 << 62)
"""Below whatever a node has left: a pod that asks for none of a resource fits an overcommitted node
too, as in kube-scheduler (plugins/noderesources/fit.go, fitsRequest)."""


class Filter:
    """One constraint."""

    shared = False
    reservable = False
    quick = False

    def concerns(self, pod: Pod) -> bool:
        """Whether the constraint can refuse the pod at all."""
        raise NotImplementedError

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        """The cause for which the node cannot take the pod now."""
        raise NotImplementedError

    def take(self, pod: Pod, node: NodeBook, sign: int) -> None:
        """Books what a pod takes of the node; with sign -1 gives it back."""

    def detail(self, pod: Pod, nodes: Sequence[NodeBook]) -> str:  # noqa: ARG002  of the interface
        """What decides that these nodes refuse the pod; "" where the cause says it all."""
        return ""


class HostPorts(Filter):
    """Ports of the node itself (plugins/nodeports)."""

    shared = True

    def concerns(self, pod: Pod) -> bool:
        return bool(pod.ports)

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        return Cause.HOST_PORT if ports_clash(pod.ports, node.ports) else None

    def take(self, pod: Pod, node: NodeBook, sign: int) -> None:
        if sign > 0:
            node.ports.update(pod.ports)
        else:
            node.ports.difference_update(pod.ports)

    def detail(self, pod: Pod, nodes: Sequence[NodeBook]) -> str:
        taken = {port for node in nodes for port in clashing(pod.ports, node.ports)}
        names = sorted(f"{port.port}/{port.protocol}" for port in taken)
        return f"{', '.join(names)} taken" if names else ""


class Amount(Filter):
    """What a node has so much of: CPU in thousandths, memory or disk in bytes."""

    reservable = True

    def __init__(self, cause: Cause, field: str, left: str, *, quick: bool = False) -> None:
        """`field` names it in what a pod requests, and `left` in what is left of a node."""
        self._cause = cause
        self._wanted: Callable[[Resources], int] = attrgetter(field)
        self._left: Callable[[NodeBook], int] = attrgetter(left)
        self._name = left
        self.quick = quick
        self.shared = not quick

    def concerns(self, pod: Pod) -> bool:
        return bool(self._wanted(pod.requests))

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        return self._cause if self._left(node) < self._wanted(pod.requests) else None

    def take(self, pod: Pod, node: NodeBook, sign: int) -> None:
        setattr(node, self._name, self._left(node) - sign * self._wanted(pod.requests))

    def detail(self, pod: Pod, nodes: Sequence[NodeBook]) -> str:
        most = max(self._left(node) for node in nodes)
        if self._cause is Cause.CPU:
            return cpu_detail(pod, most)
        return f"wants {-(-self._wanted(pod.requests) // MIB)}Mi, most free {max(most, 0) // MIB}Mi"


def cpu_detail(pod: Pod, most: int) -> str:
    """`wants 64, most free 15.9`, in CPUs."""
    return (
        f"wants {_number(pod.requests.cpu_milli / 1000)}, most free {_number(max(most, 0) / 1000)}"
    )


class PodCount(Filter):
    """How many pods the kubelet takes."""

    quick = True
    reservable = True

    def concerns(self, _pod: Pod) -> bool:
        return True

    def refuses(self, _pod: Pod, node: NodeBook) -> Cause | None:
        return Cause.PODS if node.pods < 1 else None

    def detail(self, _pod: Pod, _nodes: Sequence[NodeBook]) -> str:
        return "as many as the kubelet takes are there"


class ExtendedResources(Filter):
    """Other devices, by name."""

    shared = True
    reservable = True

    def concerns(self, pod: Pod) -> bool:
        return any(amount for _, amount in pod.requests.extended)

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        left = node.extended
        for name, amount in pod.requests.extended:
            if amount and amount > left.get(name, 0):
                return Cause.EXTENDED_RESOURCE
        return None

    def take(self, pod: Pod, node: NodeBook, sign: int) -> None:
        for name, amount in pod.requests.extended:
            node.extended[name] = node.extended.get(name, 0) - sign * amount

    def detail(self, pod: Pod, nodes: Sequence[NodeBook]) -> str:
        found = []
        for name, amount in pod.requests.extended:
            left = [node.extended.get(name, 0) for node in nodes]
            if amount and min(left) < amount:
                most = max((number for number in left if number < amount), default=0)
                found.append(f"{name}: wants {amount}, most free {max(most, 0)}")
        return "; ".join(found)


class Volumes(Filter):
    """The topology of bound PersistentVolumes (plugins/volumebinding). It never relents."""

    shared = True

    def concerns(self, pod: Pod) -> bool:
        return bool(pod.volume_topology)

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        fits = reaches_volumes(pod.volume_topology, node.state.node)
        return None if fits else Cause.VOLUME

    def detail(self, _pod: Pod, _nodes: Sequence[NodeBook]) -> str:
        return "a bound PersistentVolume cannot be reached from there"


class Relationships(Filter):
    """Affinity, anti-affinity and topology spread among pods (feasibility/relations.py)."""

    shared = True

    def __init__(self, book: RelationBook) -> None:
        self._book = book

    def concerns(self, pod: Pod) -> bool:
        return self._book.active and self._book.alike(pod) is not None

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        return self._book.refuses(pod, node.name)


class Avoided(Filter):
    """Nodes where the pod was placed before and the scheduler did not bind it."""

    def concerns(self, pod: Pod) -> bool:
        return bool(pod.avoid)

    def refuses(self, pod: Pod, node: NodeBook) -> Cause | None:
        return Cause.AVOIDED if node.name in pod.avoid else None

    def detail(self, _pod: Pod, _nodes: Sequence[NodeBook]) -> str:
        return "the scheduler did not bind it there"


def filters(relations: RelationBook) -> tuple[Filter, ...]:
    """All constraints, in the order of the causes."""
    return (
        HostPorts(),
        Amount(Cause.CPU, "cpu_milli", "cpu", quick=True),
        Amount(Cause.MEMORY, "memory", "memory", quick=True),
        Amount(Cause.EPHEMERAL_STORAGE, "ephemeral", "ephemeral"),
        PodCount(),
        ExtendedResources(),
        Volumes(),
        Relationships(relations),
        Avoided(),
    )


def _number(value: float) -> str:
    """At most three decimals, rounded towards what is short: 15.9999 is not 16."""
    whole = int(value * 1000) / 1000
    return f"{whole:.3f}".rstrip("0").rstrip(".")
