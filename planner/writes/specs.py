"""The layouts that a plan changes, as writes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from mpslice.nodelayout import GpuSpec, LayoutSpec, LayoutStatus, NodeLayout
from planner.model.nodes import Layout
from planner.model.plan import Plan
from planner.state.standing import spec_was_refused
from planner.writes.actions import WriteSpec


def spec_writes(
    made: Plan, layouts: Mapping[str, NodeLayout], set_aside: Mapping[str, str]
) -> Iterator[WriteSpec]:
    """The specs that say something else than the plan does; `layouts` by node name."""
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
