"""What a plan is made from and what it says: frozen records, no Kubernetes JSON any more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from mpslice.gpus import MAX_SLICES_PER_GPU, GpuUuid
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize

GATE: Final = "mpslice.io/carve"
ANY_ADDRESS: Final = "0.0.0.0"
NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace (pkg/apis/core/v1/defaults.go)."""


class Cause(StrEnum):
    """Why a pod waits; from NO_NODE on of the pod itself, before that of nodes.

    A node counts once, at its first failure in this order. The later the cause, the nearer the node
    is to a placement. A node counts as RESERVED if only a reservation keeps the pod from it.
    """

    NOT_READY = "NotReady"
    UNSCHEDULABLE = "Unschedulable"
    NODE_NAME = "NodeName"
    NODE_AFFINITY = "NodeAffinity"
    TAINT = "Taint"
    HOST_PORT = "HostPort"
    CPU = "CPU"
    MEMORY = "Memory"
    EPHEMERAL_STORAGE = "EphemeralStorage"
    PODS = "Pods"
    EXTENDED_RESOURCE = "ExtendedResource"
    VOLUME = "Volume"
    POD_AFFINITY = "PodAffinity"
    TOPOLOGY_SPREAD = "TopologySpread"
    AVOIDED = "Avoided"
    GPU_TOO_SMALL = "GPUTooSmall"
    GPU_SLOTS = "GPUSlots"
    GPU_MEMORY = "GPUMemory"
    NO_NODE = "NoNode"
    GROUP = "Group"
    RESERVED = "Reserved"
    BACKOFF = "Backoff"
    GATED = "Gated"


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement of a node selector term; `operator` as Kubernetes writes it."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """All requirements of one nodeSelectorTerm; without any it matches nothing."""

    labels: tuple[Expression, ...] = ()
    fields: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration; an empty key or effect stands for every one."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a pod demands of a node's identity; hashable, so that its answer is memoised.

    With `gb` it asks for mpslice.io/gb. How much follows from its slices, so a node that offers any
    has enough where the slices fit (nodeagent/cluster/report.py, offered_gb).
    """

    node_selector: tuple[tuple[str, str], ...] = ()
    affinity: tuple[NodeTerm, ...] | None = None  # None: no required node affinity at all
    tolerations: tuple[Toleration, ...] = ()
    gb: bool = False


Selector = tuple[Expression, ...] | None
"""All requirements of a label selector: () selects everything, None nothing at all."""


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A required term of inter-pod affinity or anti-affinity.

    It means the pods that `selector` picks in the `namespaces` and in those whose labels
    `namespace_selector` picks.
    """

    topology_key: str
    selector: Selector
    namespaces: frozenset[str] = frozenset()
    namespace_selector: Selector = None


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint that must hold (DoNotSchedule), with Kubernetes' defaults."""

    topology_key: str
    selector: Selector
    max_skew: int = 1
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


@dataclass(frozen=True, slots=True)
class Relations:
    """What a pod demands of the pods around it; only what must hold, no preferences."""

    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    spread: tuple[Spread, ...] = ()


NO_RELATIONS: Final = Relations()
"""What nearly every pod has, so that `is` tells it from the others at no cost."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port that the pod takes on the node itself."""

    port: int
    protocol: str = "TCP"
    ip: str = ANY_ADDRESS


@dataclass(frozen=True, slots=True)
class Resources:
    """CPU in thousandths, memory and ephemeral storage in bytes, the rest by name."""

    cpu_milli: int = 0
    memory: int = 0
    ephemeral: int = 0
    extended: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SliceClaim:
    """One container's slice. Claims of one `seat` share a slice one after the other.

    A seat is a slice that the pod holds for its life: the kubelet gives what an init container had
    to the containers after it (pkg/kubelet/cm/devicemanager, devicesToReuse).
    """

    container: str
    size: SliceSize
    seat: int


@dataclass(frozen=True, slots=True)
class Available:
    """The pod condition mpslice.io/SliceAvailable; RFC 3339 times of its last change of status and
    of its last write.
    """

    status: bool
    reason: str
    message: str
    changed: str = ""
    written: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as far as planning goes. `created` is RFC 3339 in UTC, so that it sorts as text.

    `group` and `min_member` are what its label and annotation say. `avoid` are nodes where it was
    placed and never bound. `nominated` is the node that the scheduler keeps room on for it, and
    `unschedulable` what the scheduler said when it last found none, "" when it has not. `problem`
    says why what it takes of its node is not known. `succeeded` says how a finished pod ended.
    `since` is when it could first be planned, RFC 3339, where that was later than its creation:
    other people's gates do not count as waiting. `volume_claims` are the names of the
    PersistentVolumeClaims that it uses, `volume_topology` holds the node terms of each
    bound PersistentVolume that it uses, `volume_problem` names a claim that does not exist.
    `progress` is the text of its progress annotation, `available` its condition of ours.
    `preempts` says whether its preemptionPolicy lets it take the place of others, `grace` how many
    seconds it may take to end.
    """

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""
    created: str = ""
    priority: int = 0
    node: str = ""
    finished: bool = False
    terminating: bool = False
    gates: tuple[str, ...] = ()
    claims: tuple[SliceClaim, ...] = ()
    requests: Resources = field(default_factory=Resources)
    ports: tuple[HostPort, ...] = ()
    constraints: Constraints = field(default_factory=Constraints)
    relations: Relations = NO_RELATIONS
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    group: str = ""
    min_member: int | None = None
    avoid: frozenset[str] = frozenset()
    nominated: str = ""
    unschedulable: str = ""
    problem: str = ""
    succeeded: bool = False
    since: str = ""
    volume_claims: tuple[str, ...] = ()
    volume_topology: tuple[tuple[NodeTerm, ...], ...] = ()
    volume_problem: str = ""
    progress: str = ""
    available: Available | None = None
    preempts: bool = True
    grace: int = 30
    seats: tuple[SliceSize, ...] = field(init=False, compare=False)
    """The slices that the pod holds for its life, in the order of its seats; from `claims`."""

    def __post_init__(self) -> None:
        sizes = {claim.seat: claim.size for claim in self.claims}
        # Kept, because a plan asks for it many times; this is how a frozen dataclass derives.
        object.__setattr__(self, "seats", tuple(sizes[seat] for seat in sorted(sizes)))

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def group_key(self) -> str:
        """`namespace/group`, or "" for a pod of no group."""
        return f"{self.namespace}/{self.group}" if self.group else ""

    @property
    def waits_since(self) -> str:
        """When the pod began to wait for a slice, RFC 3339."""
        return self.since or self.created

    @property
    def gated(self) -> bool:
        """Whether our gate is on it."""
        return GATE in self.gates

    @property
    def is_pending(self) -> bool:
        """Whether it is the planner's turn: a slice pod with no node and nobody else's gate."""
        return bool(
            self.claims
            and not self.node
            and not self.finished
            and not self.terminating
            and all(gate == GATE for gate in self.gates)
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node; `allocatable`, `max_pods` and `slices` (what its status shows) are of the whole.

    `offers_gb` says whether it offers mpslice.io/gb, which it does once its agent does.
    `problem` says why it cannot be planned on at all, in a clause for people.
    """

    name: str
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    allocatable: Resources = field(default_factory=Resources)
    max_pods: int = 110
    slices: Slices = field(default_factory=dict)
    offers_gb: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that may be carved; memory in gb.

    `used` slices are never withdrawn; `free` ones exist or are being carved, and nobody has them.
    """

    uuid: GpuUuid
    index: int
    capacity: int
    product: str = ""
    used: Slices = field(default_factory=dict)
    free: Slices = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node with what is left of it once everything bound to it has been taken off."""

    node: Node
    gpus: tuple[Gpu, ...] = ()
    idle: Resources = field(default_factory=Resources)
    idle_pods: int = 110
    ports: frozenset[HostPort] = frozenset()


@dataclass(frozen=True, slots=True)
class Group:
    """What is known of a pod group besides its pending pods.

    `minimum` is its PodGroup's minMember, None where there is no such object. `bound` counts the
    members that need no slice any more: those with a node, those that succeeded, and those that
    ask for no slice, such as the launcher of an MPI job. `placed` are those that hold slices: the
    group keeps the turn that it had before they were bound.
    """

    minimum: int | None = None
    bound: int = 0
    placed: tuple[Pod, ...] = ()

    @property
    def there(self) -> int:
        """How many members count towards the minimum without being planned."""
        return self.bound


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What relations between pods are judged by, slice pods or not.

    `pods` are all that count as bound, by the name of their node; `repelling` are those of them
    with anti-affinity. `nodes` are all there are, labelled or not. `namespaces` are the labels of
    the known ones.
    """

    nodes: tuple[Node, ...] = ()
    pods: Mapping[str, Sequence[Pod]] = field(default_factory=dict)
    repelling: tuple[Pod, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DisruptionBudget:
    """A PodDisruptionBudget: how many of the pods that it selects may be evicted now."""

    namespace: str
    name: str
    selector: Selector
    allowed: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A pod on a node and the slices that it is seen to hold there.

    `ending`: it ends already, or it has ended and its slices have yet to come free. `limits` names
    the limits that its eviction counts against.
    """

    pod: Pod
    slices: tuple[tuple[GpuUuid, SliceSize], ...] = ()
    ending: bool = False
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """Where a pod that preempts waits for room, `gpus` by seat, and until when at the longest."""

    node: str
    gpus: tuple[GpuUuid, ...]
    until: datetime


@dataclass(frozen=True, slots=True)
class Preemptible:
    """What preemption is decided on.

    `holders` by node are the pods that may be evicted and those that end anyway. `limits` says how
    many of the pods that name a limit may be evicted. `able` are the uids of the pods that may
    preempt, `begun` by uid where those wait that have begun to.
    """

    holders: Mapping[str, Sequence[Holder]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    able: frozenset[str] = frozenset()
    begun: Mapping[str, Hold] = field(default_factory=dict)


class Placement(NamedTuple):
    """A pod and the node and GPUs meant for it; `gpus` by seat."""

    pod: Pod
    node: str
    gpus: tuple[GpuUuid, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every labelled node, in any order. Set aside: nodes not to be touched, with the reason.

    `groups` by `Pod.group_key`. `now`, in UTC, says who has waited long; None: nobody has.
    `reserving` says since when a unit (a pod's uid, or a `Pod.group_key`) has or had its
    reservation. `preemptible` is None where nobody preempts.
    """

    nodes: tuple[NodeState, ...] = ()
    set_aside: Mapping[str, str] = field(default_factory=dict)
    max_slices_per_gpu: int = MAX_SLICES_PER_GPU
    groups: Mapping[str, Group] = field(default_factory=dict)
    now: datetime | None = None
    neighbours: Neighbours = field(default_factory=Neighbours)
    reserving: Mapping[str, datetime] = field(default_factory=dict)
    preemptible: Preemptible | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no node can hold a pod now: how many nodes fail for which cause.

    The counts add up to the number of labelled nodes, or there are none because no node is at
    fault. `details` says for some causes what decides them ("wants 64, most free 15.9"). `hole` is
    the largest room for a slice among the nodes that fail for GPUMemory: (gb, node, GPU index).
    `own` is a cause of the pod itself, `note` what there is to say about that.
    """

    pod: Pod
    causes: tuple[tuple[Cause, int], ...]
    hole: tuple[int, str, int] | None = None
    own: Cause | None = None
    note: str = ""
    details: tuple[tuple[Cause, str], ...] = ()

    @property
    def nodes(self) -> int:
        return sum(count for _, count in self.causes)

    @property
    def by_weight(self) -> tuple[tuple[Cause, int], ...]:
        """The most frequent cause first; among equals the one that came closest to a placement."""
        late_first = reversed(self.causes)  # they are kept in the order of the filters
        return tuple(sorted(late_first, key=lambda item: -item[1]))

    @property
    def reason(self) -> str:
        """The pod's own cause, else that of the nodes nearest to a placement, however few."""
        if self.own is not None:
            return str(self.own)
        return str(self.causes[-1][0]) if self.causes else str(Cause.NO_NODE)


Layout = Mapping[GpuUuid, Slices]
"""Which slices exist on each GPU of one node."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is kept on a node for a pod that waits for it; `gpus` by seat, for its own slices.

    Beside them its CPU, memory and the other things that it requests are kept. `unit` is the pod's
    uid, or its group_key where it is reserved for a group; `since` is when the unit's reservation
    began, which is to be handed back in `Snapshot.reserving`, also after it has ended. A pod that
    preempts has no such time, and `after` names the pods whose end it waits for.
    """

    pod: Pod
    node: str
    gpus: tuple[GpuUuid, ...]
    unit: str = ""
    since: datetime | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preemption:
    """A pod that fits once others have ended: `victims` are to be evicted, `ending` end already.

    `gpus` by seat. What it needs there is kept for it, as a Reservation in the same plan says.
    """

    pod: Pod
    node: str
    gpus: tuple[GpuUuid, ...]
    victims: tuple[Pod, ...] = ()
    ending: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Placements in planned order, refusals, and the new layouts of the nodes that change.

    `fell_back`: the solver ran out of time, so the plan is the one without it.
    """

    placements: tuple[Placement, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    withdrawn: int = 0
    reservations: tuple[Reservation, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    fell_back: bool = False
