"""Which pods are bound: the agents know it at times before the API server has shown it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mpslice.nodelayout import NodeLayout, SliceState
from planner.model.plan import Placement
from planner.model.pods import Pod


def seen_bound(
    pods: Iterable[Pod], layouts: Mapping[str, NodeLayout], planned: Mapping[str, Placement]
) -> tuple[Pod, ...]:
    """The pods; on its node, too, one whose slice is shown as taken where the last plan put it.

    Its room is not given away, nor another slice to it. Anywhere else the slice may be that of an
    older pod of its name, whose processes outlived it; so it is of a gated pod's name.
    """
    return tuple(
        replace(pod, node=place.node)
        if (place := planned.get(pod.uid)) is not None
        and pod.is_pending
        and not pod.gated
        and _holds(layouts.get(place.node), pod.key)
        else pod
        for pod in pods
    )


def _holds(layout: NodeLayout | None, key: str) -> bool:
    return (
        layout is not None
        and layout.status is not None
        and any(
            entry.state is SliceState.USED and entry.pod == key
            for gpu in layout.status.gpus
            for entry in gpu.slices
        )
    )
