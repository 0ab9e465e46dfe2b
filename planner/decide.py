"""What the controller has to do next, as a pure function of what the cluster shows.

Because every decision is derived from the cluster's own state, a restart, a new leader or a lost
answer repeats at most what was already done.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mpslice.nodelayout import GpuSpec, LayoutSpec, LayoutStatus, NodeLayout
from planner.actions import Action, Ungate, WriteSpec
from planner.bindable import split_by_bindable
from planner.handover import hand_back, hand_over
from planner.model import Layout, Node, Placement, Plan, Pod, Refusal, Snapshot
from planner.packing import plan
from planner.snapshot import build_snapshot
from planner.standing import holders, spec_was_refused


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as the reflectors show it.

    `waiting` pods belong to a burst that is not complete yet. `unreadable` are nodes whose
    NodeLayout says something that is none: nothing is done to them. Without `gate` nobody is to
    wait for one. `namespaces` are their labels by name.
    """

    nodes: tuple[Node, ...]
    layouts: Mapping[str, NodeLayout]
    pods: tuple[Pod, ...]
    label: tuple[str, str]
    waiting: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()
    gate: bool = True
    max_slices_per_gpu: int = 48
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, in any order, and what there is to tell. `carving` waits for its slices."""

    actions: tuple[Action, ...] = ()
    carving: tuple[Placement, ...] = ()
    refused: tuple[Refusal, ...] = ()
    plan: Plan = field(default_factory=Plan)
    snapshot: Snapshot = field(default_factory=Snapshot)


def decide(view: View) -> Decision:
    """Everything there is to do now. Nothing at all when the cluster is as planned."""
    key, value = view.label
    readable = [node for node in view.nodes if node.name not in view.unreadable]
    labelled = [node for node in view.nodes if node.labels.get(key) == value]
    layouts = serving(view.layouts.values())
    away = {node.name for node in labelled if _agent_is_away(node, layouts.get(node.name))}
    here = {name: layout for name, layout in layouts.items() if name not in away}
    snapshot = _snapshot(view, labelled, here)
    made = plan(snapshot, _pending(view))
    patient = Plan()
    if away and made.refusals:
        asleep = _snapshot(view, [node for node in labelled if node.name in away], layouts)
        patient = plan(asleep, [refusal.pod for refusal in made.refusals])
    refused = _without(made.refusals, patient.placements)
    ready, carving = split_by_bindable(made, here, view.nodes, view.pods)
    going = [placement.pod for placement in ready] + [refusal.pod for refusal in refused]
    if not view.gate:
        going = [placement.pod for placement in made.placements] + [r.pod for r in made.refusals]
    return Decision(
        actions=(
            *(Ungate(pod) for pod in going if pod.gated),
            *_spec_writes(made, here),
            *hand_over((n for n in readable if n.labels.get(key) == value), view.layouts),
            *hand_back(
                (n for n in readable if n.labels.get(key) != value), view.layouts, view.pods
            ),
        ),
        carving=(*carving, *patient.placements),
        refused=refused,
        plan=made,
        snapshot=_snapshot(view, labelled, layouts) if away else snapshot,
    )


def serving(layouts: Iterable[NodeLayout]) -> dict[str, NodeLayout]:
    """By name, the layouts that may be planned on: not those that are being handed back."""
    return {layout.name: layout for layout in layouts if not layout.spec.release}


def _snapshot(view: View, nodes: Iterable[Node], layouts: Mapping[str, NodeLayout]) -> Snapshot:
    return build_snapshot(
        nodes,
        layouts,
        view.pods,
        max_slices_per_gpu=view.max_slices_per_gpu,
        all_nodes=view.nodes,
        namespaces=view.namespaces,
    )


def _agent_is_away(node: Node, layout: NodeLayout | None) -> bool:
    """Whether the node's status has lost every slice that the layout lists.

    The kubelet shows 0 once its plugin is gone. A pod that fits elsewhere goes there meanwhile;
    one that fits only here waits with its gate, since the slices come back with the agent.
    """
    status = layout.status if layout is not None else None
    sizes = {s.id.size for gpu in status.gpus for s in gpu.slices} if status else set()
    return bool(sizes) and not any(node.slices.get(size) for size in sizes)


def _without(refusals: Iterable[Refusal], placements: Iterable[Placement]) -> tuple[Refusal, ...]:
    placed = {placement.pod.key for placement in placements}
    return tuple(refusal for refusal in refusals if refusal.pod.key not in placed)


def _pending(view: View) -> list[Pod]:
    ready = {node.name for node in view.nodes if node.ready}
    layouts = (layout for layout in view.layouts.values() if layout.name in ready)
    pods = [pod for pod in view.pods if pod.key not in view.waiting]
    return pending_pods(pods, layouts)


def pending_pods(pods: Iterable[Pod], layouts: Iterable[NodeLayout]) -> list[Pod]:
    """The pods to plan. `layouts` of live nodes may show a slice as a pod's before its binding is
    seen: such a pod is not planned again. A gated pod cannot be bound; the name is another's then.
    """
    holding = holders(layouts)
    return [pod for pod in pods if pod.is_pending and (pod.gated or pod.key not in holding)]


def _spec_writes(made: Plan, layouts: Mapping[str, NodeLayout]) -> Iterable[WriteSpec]:
    for name, layout in sorted(layouts.items()):
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
