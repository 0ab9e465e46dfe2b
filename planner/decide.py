"""What the controller has to do next, as a pure function of what the cluster shows.

Because every decision is derived from the cluster's own state, a restart, a new leader or a lost
answer repeats at most what was already done.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import (
    ConditionType,
    GpuSpec,
    LayoutSpec,
    LayoutStatus,
    NodeLayout,
    SliceState,
    slices_to_json,
)
from mpslice.slices import SliceSize
from planner.model import Node, Placement, Plan, Pod, Refusal, Snapshot
from planner.packing import plan
from planner.snapshot import build_snapshot, holders

MANAGED_LABEL: Final = "mpslice.io/managed"

Facts = dict[str, object]
"""What a log line says of an action."""

Seat = tuple[str, GpuUuid, SliceSize]
"""A slice of a size on a GPU of a node."""


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as the reflectors show it. `waiting` pods belong to a burst not complete yet."""

    nodes: tuple[Node, ...]
    layouts: Mapping[str, NodeLayout]
    pods: tuple[Pod, ...]
    label: tuple[str, str]
    waiting: frozenset[str] = frozenset()
    max_slices_per_gpu: int = 48


@dataclass(frozen=True, slots=True)
class CreateLayout:
    """A node was handed over: its NodeLayout object has to be made."""

    node: Node

    @property
    def facts(self) -> Facts:
        return {"action": "create NodeLayout", "node": self.node.name}


@dataclass(frozen=True, slots=True)
class SetManaged:
    """Whether the agents' DaemonSets should run on the node."""

    node: Node
    managed: bool

    @property
    def facts(self) -> Facts:
        return {"action": "set managed", "node": self.node.name, "managed": self.managed}


@dataclass(frozen=True, slots=True)
class DeleteLayout:
    """The node was handed back and is released."""

    layout: NodeLayout

    @property
    def facts(self) -> Facts:
        return {"action": "delete NodeLayout", "node": self.layout.name}


@dataclass(frozen=True, slots=True)
class WriteSpec:
    """A node's new layout, on top of the version that the decision was made on."""

    layout: NodeLayout
    spec: LayoutSpec

    @property
    def facts(self) -> Facts:
        layout = {gpu.uuid: slices_to_json(gpu.slices) for gpu in self.spec.gpus}
        return {"action": "write layout", "node": self.layout.name, "layout": layout}


@dataclass(frozen=True, slots=True)
class Ungate:
    """The pod's slices are bindable, or no node can hold it: the scheduler's turn."""

    pod: Pod

    @property
    def facts(self) -> Facts:
        return {"action": "take gate away", "pod": self.pod.key}


Action = CreateLayout | SetManaged | DeleteLayout | WriteSpec | Ungate


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
    labelled = [node for node in view.nodes if node.labels.get(key) == value]
    layouts = {name: layout for name, layout in view.layouts.items() if not layout.spec.release}
    snapshot = build_snapshot(
        labelled, layouts, view.pods, max_slices_per_gpu=view.max_slices_per_gpu
    )
    pending = _pending(view)
    made = plan(snapshot, pending)
    ready, carving = _split_by_bindable(made, view, layouts)
    return Decision(
        actions=(
            *(Ungate(placement.pod) for placement in ready if placement.pod.gated),
            *(Ungate(refusal.pod) for refusal in made.refusals if refusal.pod.gated),
            *_spec_writes(made, layouts),
            *_hand_over(labelled, view.layouts),
            *_hand_back(view, {node.name for node in labelled}),
        ),
        carving=tuple(carving),
        refused=made.refusals,
        plan=made,
        snapshot=snapshot,
    )


def _pending(view: View) -> list[Pod]:
    # A layout may show a pod's slice as used before the pod's binding has reached us.
    holding = holders(view.layouts.values())
    return [
        pod
        for pod in view.pods
        if pod.is_pending and pod.key not in view.waiting and (pod.gated or pod.key not in holding)
    ]


def _spec_writes(made: Plan, layouts: Mapping[str, NodeLayout]) -> Iterable[WriteSpec]:
    for name, gpus in sorted(made.layouts.items()):
        layout = layouts[name]
        spec = LayoutSpec(
            tuple(GpuSpec(uuid, slices) for uuid, slices in sorted(gpus.items()))
            + tuple(gpu for gpu in layout.spec.gpus if gpu.uuid not in gpus)
        )
        if spec != layout.spec:
            yield WriteSpec(layout, spec)


def _split_by_bindable(
    made: Plan, view: View, layouts: Mapping[str, NodeLayout]
) -> tuple[list[Placement], list[Placement]]:
    """The placements whose slices are all bindable now, and those that wait; in planned order.

    Bindable is what the layout's status lists as free and the node's status shows: the second
    drops to 0 when the agent is away, and a pod bound then would fail the kubelet's admission.
    """
    carved = _carved(made, layouts)
    shown = _shown(view)
    ready: list[Placement] = []
    waiting: list[Placement] = []
    for placement in made.placements:
        node, sizes = placement.node, placement.pod.seats
        seats = Counter((node, gpu, size) for gpu, size in zip(placement.gpus, sizes, strict=True))
        counts = Counter((node, size) for size in sizes)
        if seats <= carved and counts <= shown:
            carved.subtract(seats)
            shown.subtract(counts)
            ready.append(placement)
        else:
            waiting.append(placement)
    return ready, waiting


def _carved(made: Plan, layouts: Mapping[str, NodeLayout]) -> Counter[Seat]:
    """Free slices that the layouts' status lists and this plan keeps."""
    free: Counter[Seat] = Counter()
    for name, layout in layouts.items():
        planned = made.layouts.get(name)
        for gpu in (layout.status or LayoutStatus()).gpus:
            standing = Counter(s.id.size for s in gpu.slices)
            used = Counter(s.id.size for s in gpu.slices if s.state is SliceState.USED)
            kept = standing if planned is None else Counter(planned.get(gpu.uuid, standing))
            if gpu.healthy:
                for size, count in (standing & kept).items():
                    free[name, gpu.uuid, size] = count - used[size]
    return free


def _shown(view: View) -> Counter[tuple[str, SliceSize]]:
    """Slices that the scheduler still sees room for: the nodes' status less all that is bound."""
    shown = Counter(
        {(node.name, size): count for node in view.nodes for size, count in node.slices.items()}
    )
    for pod in view.pods:
        if pod.node and pod.claims and not pod.finished:
            shown.subtract((pod.node, size) for size in pod.seats)
    return shown


def _hand_over(labelled: Iterable[Node], layouts: Mapping[str, NodeLayout]) -> Iterable[Action]:
    for node in labelled:
        layout = layouts.get(node.name)
        if layout is None:
            yield CreateLayout(node)
        elif layout.spec.release:
            yield WriteSpec(layout, LayoutSpec(layout.spec.gpus, release=False))
        if node.labels.get(MANAGED_LABEL) != "true":
            yield SetManaged(node, managed=True)


def _hand_back(view: View, labelled: set[str]) -> Iterable[Action]:
    for node in view.nodes:
        if node.name in labelled:
            continue
        layout = view.layouts.get(node.name)
        if layout is None:
            if MANAGED_LABEL in node.labels:
                yield SetManaged(node, managed=False)
        elif not layout.spec.release:
            yield WriteSpec(layout, LayoutSpec(release=True))
        elif _is_released(layout):
            yield DeleteLayout(layout)


def _is_released(layout: NodeLayout) -> bool:
    status = layout.status
    return (
        status is not None
        and status.observed_generation >= layout.generation
        and status.is_true(ConditionType.RELEASED)
    )
