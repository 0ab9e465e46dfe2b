"""What a decision is made from, and what it says: frozen records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from mpslice.gpus import MAX_SLICES_PER_GPU
from mpslice.nodelayout import NodeLayout
from mpslice.slices import SliceSize
from planner.model.nodes import Node
from planner.model.plan import Placement, Plan, Refusal
from planner.model.pods import Pod
from planner.model.preemption import DisruptionBudget
from planner.model.snapshot import Snapshot
from planner.progress.machine import Progress, Refused
from planner.state.absence import Absence
from planner.state.known import KnownNodes
from planner.writes.actions import Action

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as the reflectors show it.

    `waiting` pods belong to a burst that is not complete yet. `away` are nodes that take no layout
    now, and why. `unreadable` are nodes whose NodeLayout says something that is none, and what:
    nothing is done to them. Without `gate` nobody is to wait for one. `unnominable` are the uids of
    pods whose nomination was refused: nobody waits for that. `planned` is where the last decision
    put pods, by uid, {} if nobody remembers: what it began is finished, not begun anew elsewhere.
    `progress` is what the last decision said of each pod, by uid, {} after a restart; `freed` when
    other people's gates went from pods, `refused` which gates the API server kept, `going` whose
    gates go while this is decided. `leaving` are nodes and sizes of which kube-scheduler may
    still see a slice more than there is; it is `catching_up` while it may see none of what has
    changed since the API server was away, and the planner is `blind` while it does not know what
    may be seen still, since it cannot follow nodes or could not until now. With `preemption` pods
    are evicted for others, as `budgets` let them; `spared` are the uids of pods that could not be
    evicted, and until when nobody tries again. `solver` is plan's, the rest build_snapshot's.
    `known` makes a decision no other, only sooner.
    """

    nodes: tuple[Node, ...]
    layouts: Mapping[str, NodeLayout]
    pods: tuple[Pod, ...]
    label: tuple[str, str]
    waiting: frozenset[str] = frozenset()
    away: Mapping[str, Absence] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    gate: bool = True
    unnominable: frozenset[str] = frozenset()
    max_slices_per_gpu: int = MAX_SLICES_PER_GPU
    minimums: Mapping[str, int] = field(default_factory=dict)
    now: datetime | None = None
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    planned: Mapping[str, Placement] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    freed: Mapping[str, datetime] = field(default_factory=dict)
    refused: Mapping[str, Refused] = field(default_factory=dict)
    going: frozenset[str] = frozenset()
    leaving: frozenset[tuple[str, SliceSize]] = frozenset()
    catching_up: bool = False
    blind: bool = False
    solver: bool = False
    preemption: bool = False
    budgets: tuple[DisruptionBudget, ...] = ()
    spared: Mapping[str, datetime] = field(default_factory=dict)
    known: KnownNodes = field(default_factory=KnownNodes, compare=False)

    @property
    def moment(self) -> datetime:
        """Now; the epoch where time plays no part."""
        return self.now or _EPOCH


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and what there is to tell.

    `carving` waits for its slices, or for those of its group. `standing` are the placements that
    the scheduler can carry out, now or once the gate is gone. `refused` fit nowhere now, and
    `patient` are those of them that wait with their gates for an agent to come back. `gated` are
    slice pods that wait for other people's gates. `taken` are places whose pods the layouts show
    there already, and the pods themselves not yet. `unreadable` and `away` are nodes that something
    is to be told of, and what.
    """

    actions: tuple[Action, ...] = ()
    carving: tuple[Placement, ...] = ()
    standing: tuple[Placement, ...] = ()
    refused: tuple[Refusal, ...] = ()
    patient: tuple[Placement, ...] = ()
    gated: tuple[Pod, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    overdue: Mapping[str, str] = field(default_factory=dict)
    taken: tuple[Placement, ...] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    due: datetime | None = None
    plan: Plan = field(default_factory=Plan)
    snapshot: Snapshot = field(default_factory=Snapshot)

    @property
    def planned(self) -> dict[str, Placement]:
        """Where pods were put, by uid, for the next decision's view."""
        return {p.pod.uid: p for p in (*self.taken, *self.patient, *self.plan.placements)}
