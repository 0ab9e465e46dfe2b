"""What a plan says: placements, refusals with their causes, reservations and new layouts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from mpslice.gpus import GpuUuid
from planner.model.nodes import Layout
from planner.model.pods import Pod
from planner.model.preemption import Preemption


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


class Placement(NamedTuple):
    """A pod and the node and GPUs meant for it; `gpus` by seat."""

    pod: Pod
    node: str
    gpus: tuple[GpuUuid, ...]


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
