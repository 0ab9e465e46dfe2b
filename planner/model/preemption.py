"""What preemption across sizes is decided on, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mpslice.gpus import GpuUuid
from mpslice.slices import SliceSize
from planner.model.constraints import Selector
from planner.model.pods import Pod


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
