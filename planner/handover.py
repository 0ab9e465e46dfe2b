"""Nodes handed over to mpslice and back: the NodeLayout, the managed label, and their order.

The agents run where the label is, and their end kills the clients of their MPS daemons: so the
label goes last, and never while something is known to be in use or nothing certain is known.
"""

from collections.abc import Iterable, Mapping

from mpslice.nodelayout import ConditionType, LayoutSpec, NodeLayout
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.writes.actions import (
    MANAGED_LABEL,
    Action,
    CreateLayout,
    DeleteLayout,
    SetManaged,
    WriteSpec,
)


def outlived(layout: NodeLayout, node: Node) -> bool:
    """Whether the layout is a deleted node's of the same name, which the collector has left yet."""
    return bool(layout.owner_uid and node.uid) and layout.owner_uid != node.uid


def hand_over(labelled: Iterable[Node], layouts: Mapping[str, NodeLayout]) -> Iterable[Action]:
    """What nodes with the user's label still lack."""
    for node in labelled:
        layout = layouts.get(node.name)
        if layout is None:
            yield CreateLayout(node)
        elif outlived(layout, node):
            yield DeleteLayout(layout)
        elif layout.spec.release:
            yield WriteSpec(layout, LayoutSpec(layout.spec.gpus, release=False))
        if node.labels.get(MANAGED_LABEL) != "true":
            yield SetManaged(node, managed=True)


def hand_back(
    unlabelled: Iterable[Node], layouts: Mapping[str, NodeLayout], pods: Iterable[Pod]
) -> Iterable[Action]:
    """The next step for nodes without the user's label: release, layout, then the managed label."""
    busy = {pod.node for pod in pods if pod.claims and pod.node and not pod.finished}
    for node in unlabelled:
        layout = layouts.get(node.name)
        if layout is None:
            if MANAGED_LABEL in node.labels and node.name not in busy:
                yield SetManaged(node, managed=False)
        elif outlived(layout, node):
            yield DeleteLayout(layout)
        elif not layout.spec.release:
            yield WriteSpec(layout, LayoutSpec(release=True))
        elif layout.status is None or _is_released(layout):
            yield DeleteLayout(layout)  # without a status: no agent ever was there to carve
        elif node.labels.get(MANAGED_LABEL) != "true":
            yield SetManaged(node, managed=True)  # only an agent can release what stands there


def _is_released(layout: NodeLayout) -> bool:
    status = layout.status
    return (
        status is not None
        and status.observed_generation >= layout.generation
        and status.is_true(ConditionType.RELEASED)
    )
