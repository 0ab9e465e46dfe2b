"""What a controller can do, as data: `decide` yields it, `perform` carries it out."""

from dataclasses import dataclass
from typing import Final

from mpslice.nodelayout import LayoutSpec, NodeLayout, slices_to_json
from planner.model import Node, Pod

MANAGED_LABEL: Final = "mpslice.io/managed"

Facts = dict[str, object]
"""What a log line says of an action."""


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
