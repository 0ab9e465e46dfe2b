"""A node, its GPUs, and what is left of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Slices
from planner.model.constraints import HostPort, Resources, Taint


@dataclass(frozen=True, slots=True)
class Node:
    """A node; `allocatable`, `max_pods` and `slices` (what its status shows) are of the whole.

    `offers_gb` says whether it offers mpslice.io/gb, which it does once its agent does.
    `applied` is the `version_tag` of the layout whose slices its agent wrote last.
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
    applied: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that may be carved; memory in gb.

    `used` slices are never withdrawn; `free` ones exist or are being carved, and nobody has them.
    `members` are the `Pod.spread_key` of the pods that hold slices here.
    """

    uuid: GpuUuid
    index: int
    capacity: int
    product: str = ""
    used: Slices = field(default_factory=dict)
    free: Slices = field(default_factory=dict)
    members: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node with what is left of it once everything bound to it has been taken off."""

    node: Node
    gpus: tuple[Gpu, ...] = ()
    idle: Resources = field(default_factory=Resources)
    idle_pods: int = 110
    ports: frozenset[HostPort] = frozenset()


Layout = Mapping[GpuUuid, Slices]
"""Which slices exist on each GPU of one node."""
