"""A pod and a pod group as far as planning goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mpslice.slices import SliceSize
from planner.model.constraints import (
    NO_RELATIONS,
    Constraints,
    HostPort,
    NodeTerm,
    Relations,
    Resources,
)

GATE: Final = "mpslice.io/carve"


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
    `spread`: it is to have its GPUs to itself among the pods of its group that say the same.
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
    spread: bool = False
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
    def spread_key(self) -> str:
        """The group no two pods of which may share a GPU, or "" where that is not asked for."""
        return self.group_key if self.spread else ""

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
