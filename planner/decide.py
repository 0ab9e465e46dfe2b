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
)
from mpslice.slices import SliceSize
from planner.model import Node, Placement, Plan, Pod, Refusal, Snapshot
from planner.packing import plan
from planner.snapshot import build_snapshot, holders

MANAGED_LABEL: Final = "mpslice.io/managed"

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


@dataclass(frozen=True, slots=True)
class SetManaged:
    """Whether the agents' DaemonSets should run on the node."""

    node: Node
    managed: bool


@dataclass(frozen=True, slots=True)
class DeleteLayout:
    """The node was handed back and is released."""

    layout: NodeLayout


@dataclass(frozen=True, slots=True)
class WriteSpec:
    """A node's new layout, on top of the version that the decision was made on."""

    layout: NodeLayout
    spec: LayoutSpec


@dataclass(frozen=True, slots=True)
class Ungate:
    """The pod's slices are bindable, or no node can hold it: the scheduler's turn."""

    pod: Pod


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
    ready, carving = _split_by_bindable(made, layouts, view.pods)
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
    made: Plan, layouts: Mapping[str, NodeLayout], pods: Iterable[Pod]
) -> tuple[list[Placement], list[Placement]]:
    """The placements whose slices are all bindable now, and those that wait; in planned order."""
    bindable = _bindable(made, layouts, pods)
    ready: list[Placement] = []
    waiting: list[Placement] = []
    for placement in made.placements:
        seats = Counter(
            (placement.node, gpu, size)
            for gpu, size in zip(placement.gpus, placement.pod.seats, strict=True)
        )
        if all(bindable[seat] >= count for seat, count in seats.items()):
            bindable.subtract(seats)
            ready.append(placement)
        else:
            waiting.append(placement)
    return ready, waiting


def _bindable(made: Plan, layouts: Mapping[str, NodeLayout], pods: Iterable[Pod]) -> Counter[Seat]:
    """Free slices that the status shows and this plan keeps, less what bound pods will take."""
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
    snapshot_free = _claimed_by_bound(layouts, pods)
    for (name, size), count in snapshot_free.items():
        for seat in sorted(seat for seat in free if seat[0] == name and seat[2] == size):
            taken = min(count, max(0, free[seat]))
            free[seat] -= taken
            count -= taken
    return free


def _claimed_by_bound(
    layouts: Mapping[str, NodeLayout], pods: Iterable[Pod]
) -> Counter[tuple[str, SliceSize]]:
    """Slices that pods bound to a node will take there, not seen in its status yet."""
    held: Counter[tuple[str, str, SliceSize]] = Counter(
        (name, entry.pod or "", entry.id.size)
        for name, layout in layouts.items()
        for gpu in (layout.status or LayoutStatus()).gpus
        for entry in gpu.slices
        if entry.state is SliceState.USED
    )
    missing: Counter[tuple[str, SliceSize]] = Counter()
    for pod in pods:
        if pod.node in layouts and pod.claims and not pod.finished:
            for size, count in Counter(pod.seats).items():
                missing[pod.node, size] += max(0, count - held[pod.node, pod.key, size])
    return missing


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
