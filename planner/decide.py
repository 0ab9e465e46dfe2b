"""What the controller has to do next, as a pure function of what the cluster shows.

Because every decision is derived from the cluster's own state, a restart, a new leader or a lost
answer repeats at most what was already done.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from mpslice.gpus import MAX_SLICES_PER_GPU
from mpslice.nodelayout import GpuSpec, LayoutSpec, LayoutStatus, NodeLayout
from mpslice.slices import SliceSize
from planner.gate.bindable import Bindable
from planner.gate.gates import hold_back, keeps_gate, whole_groups
from planner.gate.rivals import Rivals, nominations
from planner.handover import hand_back, hand_over, outlived
from planner.model import GATE, Layout, Node, Placement, Plan, Pod, Refusal, Snapshot
from planner.packing import plan
from planner.state.absence import Absence, as_if_there
from planner.state.bindings import seen_bound
from planner.state.snapshot import build_snapshot
from planner.state.standing import spec_was_refused
from planner.writes.actions import Action, Ungate, WriteSpec


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as the reflectors show it.

    `waiting` pods belong to a burst that is not complete yet. `away` are nodes that take no layout
    now, and why. `unreadable` are nodes whose NodeLayout says something that is none, and what:
    nothing is done to them. Without `gate` nobody is to wait for one. `unnominable` are the uids of
    pods whose nomination was refused: nobody waits for that. `planned` is where the last decision
    put pods, by uid, {} if nobody remembers: what it began is finished, not begun anew elsewhere.
    `solver` is plan's, the rest build_snapshot's.
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
    solver: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and what there is to tell.

    `carving` waits for its slices, or for those of its group. `standing` are the placements that
    the scheduler can carry out, now or once the gate is gone. `refused` fit nowhere now, and
    `patient` are those of them that wait with their gates for an agent to come back. `gated` are
    slice pods that wait for other people's gates. `unreadable` and `away` are nodes that something
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
    plan: Plan = field(default_factory=Plan)
    snapshot: Snapshot = field(default_factory=Snapshot)

    @property
    def planned(self) -> dict[str, Placement]:
        """Where pods were put, by uid, for the next decision's view."""
        return {p.pod.uid: p for p in (*self.patient, *self.plan.placements)}


@dataclass(frozen=True, slots=True)
class _Sites:
    """The labelled nodes and their layouts by name: of those whose agents are there, and of those
    whose agents pods wait for, as they will be then.
    """

    labelled: tuple[Node, ...]
    here: Mapping[str, NodeLayout]
    awaited: Mapping[str, NodeLayout]


def decide(view: View) -> Decision:
    """Everything there is to do now. Nothing at all when the cluster is as planned."""
    view = replace(view, pods=seen_bound(view.pods, view.layouts, view.planned))
    sites = _sites(view)
    snapshot = _snapshot(view, sites.labelled, sites.here)
    pending = [pod for pod in view.pods if pod.is_pending and pod.key not in view.waiting]
    made = plan(snapshot, pending, solver=view.solver)
    patient = _patient(view, sites, made)
    refused = hold_back(made.refusals, made.reservations, snapshot.nodes)
    slices = Bindable(made, sites.here, view.nodes, view.pods)
    bindable, waiting = slices.split()
    ready, carving = whole_groups(bindable, waiting, made.refusals, snapshot.groups)
    held = (*carving, *patient)
    let_go = _without(refused, patient)
    for_pods = tuple(_pod_actions(view, made, slices.leaving, ready, held, let_go, snapshot))
    going = {action.pod.key for action in for_pods if isinstance(action, Ungate)}
    return Decision(
        actions=(
            *for_pods,
            *_spec_writes(made, sites.here, snapshot.set_aside),
            *_node_actions(view),
        ),
        carving=tuple(carving),
        standing=tuple(p for p in bindable if not p.pod.gated or p.pod.key in going),
        refused=refused,
        patient=patient,
        gated=tuple(pod for pod in view.pods if _waits_for_others(pod)),
        unreadable=view.unreadable,
        away={
            node.name: view.away[node.name].problem
            for node in sites.labelled
            if node.name in view.away and view.away[node.name].problem
        },
        plan=made,
        snapshot=snapshot,
    )


def _sites(view: View) -> _Sites:
    key, value = view.label
    labelled = tuple(node for node in view.nodes if node.labels.get(key) == value)
    layouts = serving(view.layouts.values())
    for node in labelled:
        if node.name in layouts and outlived(layouts[node.name], node):
            del layouts[node.name]
    here = {name: layout for name, layout in layouts.items() if name not in view.away}
    awaited = {
        name: as_if_there(layouts[name])
        for name, absence in view.away.items()
        if absence.awaited and name in layouts
    }
    return _Sites(labelled, here, awaited)


def serving(layouts: Iterable[NodeLayout]) -> dict[str, NodeLayout]:
    """By name, the layouts that may be planned on: not those that are being handed back."""
    return {layout.name: layout for layout in layouts if not layout.spec.release}


def _snapshot(view: View, nodes: Iterable[Node], layouts: Mapping[str, NodeLayout]) -> Snapshot:
    return build_snapshot(
        nodes,
        layouts,
        view.pods,
        max_slices_per_gpu=view.max_slices_per_gpu,
        minimums=view.minimums,
        now=view.now,
        all_nodes=view.nodes,
        namespaces=view.namespaces,
        planned=view.planned,
    )


def _patient(view: View, sites: _Sites, made: Plan) -> tuple[Placement, ...]:
    """Places for refused pods on nodes whose agents are away.

    A pod that fits elsewhere goes there meanwhile; one that fits only here waits with its gate,
    since the slices come back with the agent.
    """
    if not sites.awaited or not made.refusals:
        return ()
    nodes = (node for node in sites.labelled if node.name in sites.awaited)
    later = _snapshot(view, nodes, sites.awaited)
    return plan(later, [refusal.pod for refusal in made.refusals]).placements


def _without(refusals: Iterable[Refusal], placements: Iterable[Placement]) -> tuple[Refusal, ...]:
    placed = {placement.pod.key for placement in placements}
    return tuple(refusal for refusal in refusals if refusal.pod.key not in placed)


def _waits_for_others(pod: Pod) -> bool:
    over = pod.node or pod.finished or pod.terminating
    return bool(pod.claims) and not over and any(gate != GATE for gate in pod.gates)


def _pod_actions(
    view: View,
    made: Plan,
    leaving: Collection[tuple[str, SliceSize]],
    ready: Sequence[Placement],
    waiting: Sequence[Placement],
    refused: Sequence[Refusal],
    snapshot: Snapshot,
) -> Iterator[Action]:
    """Nominations, and the gates that go, in planned order.

    A pod whose gate is gone may be bound to any free slice of its size: so none of a size goes
    while the scheduler does not know yet for whom it is to keep one, and none without a place goes
    while it could get one that is to be withdrawn.
    """
    kept = {r.pod.key for r in refused if view.gate and keeps_gate(r, snapshot.groups)}
    stuck = [r.pod for r in refused if r.pod.key in kept and r.pod.gated]
    loose = [r.pod for r in refused if r.pod.key not in kept or not r.pod.gated]
    placed = (*ready, *waiting)
    rivals = Rivals(placed, loose, made.reservations, leaving, snapshot.nodes)
    wanted = nominations(placed, loose, stuck, made.reservations, rivals)
    nominate = [action for action in wanted if action.pod.uid not in view.unnominable]
    yield from nominate
    held = {size for action in nominate for size in action.pod.seats}
    ungate = [Ungate(p.pod, carved=True) for p in ready]
    if not view.gate:
        ungate += [Ungate(p.pod, carved=False) for p in waiting]
    ungate += [
        Ungate(p, carved=False) for p in loose if not view.gate or not rivals.reaches_going(p)
    ]
    yield from (u for u in ungate if u.pod.gated and held.isdisjoint(u.pod.seats))


def _spec_writes(
    made: Plan, layouts: Mapping[str, NodeLayout], set_aside: Mapping[str, str]
) -> Iterator[WriteSpec]:
    for name, layout in sorted(layouts.items()):
        if name in set_aside:
            continue
        gpus = made.layouts.get(name)
        if gpus is None and spec_was_refused(layout):
            gpus = _standing(layout)  # what could not be applied is not wanted any more
        if gpus is not None:
            spec = LayoutSpec(_gpu_specs(gpus, layout.spec.gpus, refused=spec_was_refused(layout)))
            if spec != layout.spec:
                yield WriteSpec(layout, spec)


def _gpu_specs(gpus: Layout, before: Sequence[GpuSpec], *, refused: bool) -> tuple[GpuSpec, ...]:
    """Of GPUs that are not planned on (unhealthy ones) the old spec stays, unless refused."""
    planned = tuple(GpuSpec(uuid, slices) for uuid, slices in sorted(gpus.items()))
    others = () if refused else tuple(gpu for gpu in before if gpu.uuid not in gpus)
    return planned + others


def _standing(layout: NodeLayout) -> Layout:
    status = layout.status or LayoutStatus()
    return {gpu.uuid: Counter(s.id.size for s in gpu.slices) for gpu in status.gpus}


def _node_actions(view: View) -> Iterator[Action]:
    """Nodes handed over and back; nothing where the node or its layout cannot be read."""
    key, value = view.label
    readable = [n for n in view.nodes if n.name not in view.unreadable and not n.problem]
    labelled = [node for node in readable if node.labels.get(key) == value]
    others = [node for node in readable if node.labels.get(key) != value]
    yield from hand_over(labelled, view.layouts)
    yield from hand_back(others, view.layouts, view.pods)
