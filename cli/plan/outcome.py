"""What an offline plan says: everything that is drawn for people or written for programs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cli.reading.inventory import Notice
from mpslice.gpus import GpuUuid
from planner.model.plan import Placement, Plan
from planner.model.snapshot import Snapshot

ASKS_FOR_NONE: Final = "AsksForNoSlice"
"""The reason of pods that seem to want a slice and ask for none."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A pod that was rejected or cannot be placed: a reason of a closed list, and a sentence."""

    pod: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class GpuReport:
    """A GPU of a node; memory in gb. `reason` says in one word why it is not planned on."""

    uuid: GpuUuid
    index: int
    product: str
    capacity_gb: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node that is handed over. `reason` and `message` say why it, or some of its GPUs, are not
    planned on, "" where all are; `assumed` that only the flags hand it over."""

    name: str
    ready: bool = True
    cordoned: bool = False
    assumed: bool = False
    reason: str = ""
    message: str = ""
    gpus: tuple[GpuReport, ...] = ()

    @property
    def states(self) -> tuple[str, ...]:
        """Returns what to write beside the node's name."""
        marks = (
            (not self.ready, "NotReady"),
            (self.cordoned, "cordoned"),
            (self.assumed, "assumed"),
        )
        return tuple(word for said, word in marks if said)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the command prints; seconds of reading and of planning.

    `unplanned` are objects that seem to want slices and get none. `candidates` are GPU nodes that
    could be handed over, told where none is. `owners` are the workloads of pods, by pod key.
    `asking` counts the pods that ask for slices, bound ones too; `skipped` the objects of kinds
    that do not bear on slices.
    """

    rejected: tuple[Complaint, ...] = ()
    warnings: tuple[Notice, ...] = ()
    placed: tuple[Placement, ...] = ()
    unplaced: tuple[Complaint, ...] = ()
    unplanned: tuple[Notice, ...] = ()
    nodes: tuple[NodeReport, ...] = ()
    candidates: tuple[Notice, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    snapshot: Snapshot = field(default_factory=Snapshot)
    asking: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    read_seconds: float = 0.0
    plan_seconds: float = 0.0

    @property
    def is_all_placed(self) -> bool:
        """Whether pods ask for slices, and each of them has its slices or a place."""
        return bool(self.asking) and not (self.rejected or self.unplaced or self.unplanned)
