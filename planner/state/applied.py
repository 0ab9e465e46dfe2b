"""Layouts that are applied, as nodes tell it before the layouts' own status does.

The agent writes a node's slices and names the layout that they are of. The NodeLayout's status says
the same a moment later, and the planner does not wait for it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from mpslice.gpus import DeviceId
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
    Slices,
    SliceState,
    SliceStatus,
)
from planner.model.nodes import Node


def applied_by(
    node: Node | None, layout: NodeLayout, known: NodeLayout | None = None
) -> NodeLayout | None:
    """The layout that the node says is applied: this one, or the one before the planner wrote it,
    which was `known`. None where the node says nothing of either."""
    tags = {} if known is None else {known.version_tag: known}
    return None if node is None else {**tags, layout.version_tag: layout}.get(node.applied)


def is_news(applied: NodeLayout, layout: NodeLayout) -> bool:
    """Whether the layout's own status does not say as much."""
    status = layout.status
    return (
        status is not None
        and layout.uid == applied.uid
        and status.observed_generation < applied.generation
    )


def with_applied(layout: NodeLayout, applied: NodeLayout) -> NodeLayout:
    """The layout with the status that its agent is about to write.

    Used slices are those of the status as it is: what has been taken since is told with the next
    one, as it would be without this. A status that shows slices used which the layout has not got
    is about something else, and stays.
    """
    status = layout.status or LayoutStatus()
    wanted = {gpu.uuid: gpu.slices for gpu in applied.spec.gpus}
    gpus = []
    for gpu in status.gpus:
        slices = wanted.get(gpu.uuid)
        used = Counter(s.id.size for s in gpu.slices if s.state is SliceState.USED)
        if slices is not None and gpu.healthy:
            if any(count > slices.get(size, 0) for size, count in used.items()):
                return layout
            gpu = replace(gpu, slices=tuple(_standing(gpu, slices)))
        gpus.append(gpu)
    others = (c for c in status.conditions if c.type is not ConditionType.APPLIED)
    done = Condition(ConditionType.APPLIED, True, "Applied")
    made = replace(
        status,
        observed_generation=applied.generation,
        gpus=tuple(gpus),
        conditions=(*others, done),
    )
    return replace(layout, status=made)


def _standing(gpu: GpuStatus, wanted: Slices) -> Iterator[SliceStatus]:
    """The used slices and as many free ones as are wanted beside them; new ones have the ordinals
    that are left, which need not be those that the agent chose."""
    left = Counter(wanted)
    seen: dict[DeviceId, SliceStatus] = {s.id: s for s in gpu.slices}
    for entry in sorted(gpu.slices, key=lambda s: s.state is SliceState.FREE):
        if left[entry.id.size] > 0:
            left[entry.id.size] -= 1
            yield entry
    for size, count in left.items():
        ordinals = (n for n in range(len(seen) + count) if DeviceId(gpu.uuid, size, n) not in seen)
        for _, ordinal in zip(range(count), ordinals, strict=False):
            yield SliceStatus(DeviceId(gpu.uuid, size, ordinal), 0, SliceState.FREE)
