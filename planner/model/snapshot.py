"""What a plan is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mpslice.gpus import MAX_SLICES_PER_GPU, GpuUuid
from planner.model.nodes import Node, NodeState
from planner.model.pods import Group, Pod
from planner.model.preemption import Preemptible

Place = tuple[str, tuple[GpuUuid, ...]]
"""A node and GPUs by seat."""


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
class Snapshot:
    """Every labelled node, in any order. Set aside: nodes not to be touched, with the reason.

    `groups` by `Pod.group_key`. `now`, in UTC, says who has waited long; None: nobody has.
    `reserving` says since when a unit (a pod's uid, or a `Pod.group_key`) has or had its
    reservation. `preemptible` is None where nobody preempts. `kept` are places that pods
    of spread groups keep until they are bound, by `Pod.key`.
    """

    nodes: tuple[NodeState, ...] = ()
    set_aside: Mapping[str, str] = field(default_factory=dict)
    max_slices_per_gpu: int = MAX_SLICES_PER_GPU
    groups: Mapping[str, Group] = field(default_factory=dict)
    now: datetime | None = None
    neighbours: Neighbours = field(default_factory=Neighbours)
    reserving: Mapping[str, datetime] = field(default_factory=dict)
    preemptible: Preemptible | None = None
    kept: Mapping[str, Place] = field(default_factory=dict)
