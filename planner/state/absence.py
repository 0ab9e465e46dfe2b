"""Node agents that are away: what the kubelet shows of a node's slices once their plugin is gone.

Pure; time is passed in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mpslice.nodelayout import LayoutStatus, NodeLayout
from planner.model import Node

PATIENCE: Final = 2.0
"""Seconds before an agent counts as away: a layout's and its node's status come by two watches, the
first of them at times alone; and most restarts are over by then."""


def shows_nothing(node: Node, layout: NodeLayout) -> bool:
    """Whether the node's status has none of the slices that the layout lists.

    The kubelet shows 0 of a resource whose plugin is gone (pkg/kubelet/cm/devicemanager/manager.go,
    GetCapacity).
    """
    status = layout.status or LayoutStatus()
    sizes = {s.id.size for gpu in status.gpus for s in gpu.slices}
    return bool(sizes) and not any(node.slices.get(size) for size in sizes)


@dataclass(slots=True)
class Absences:
    """Since when which node has shown none of its slices."""

    patience: float = PATIENCE
    _since: dict[str, float] = field(default_factory=dict)
    _next: float | None = None

    def watch(
        self, nodes: Iterable[Node], layouts: Mapping[str, NodeLayout], now: float
    ) -> frozenset[str]:
        """Takes note of the nodes that show nothing; those of them whose agents are away."""
        since = self._since
        self._since = {
            node.name: since.get(node.name, now)
            for node in nodes
            if node.name in layouts and shows_nothing(node, layouts[node.name])
        }
        ends = {name: begin + self.patience for name, begin in self._since.items()}
        self._next = min((end for end in ends.values() if end > now), default=None)
        return frozenset(name for name, end in ends.items() if end <= now)

    def due(self) -> float | None:
        """When `watch` has to be asked again, on the clock that it was given."""
        return self._next
