"""What a controller can do, as data: `decide` yields it, `perform` carries it out.

`key` names the object that an action writes: one write of an object at a time. `urgent` actions are
what pods wait for.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Final

from mpslice.nodelayout import LayoutSpec, NodeLayout, slices_to_json
from planner.model.nodes import Node
from planner.model.plan import Placement
from planner.model.pods import Available, Pod

MANAGED_LABEL: Final = "mpslice.io/managed"

Facts = dict[str, object]
"""What a log line says of an action."""

Key = tuple[str, str]
"""The kind and the name of an object."""


@dataclass(frozen=True, slots=True)
class CreateLayout:
    """A node was handed over: its NodeLayout object has to be made."""

    node: Node
    urgent: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return "nodelayout", self.node.name

    @property
    def facts(self) -> Facts:
        return {"action": "create NodeLayout", "node": self.node.name}


@dataclass(frozen=True, slots=True)
class SetManaged:
    """Whether the agents' DaemonSets should run on the node."""

    node: Node
    managed: bool
    urgent: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return "node", self.node.name

    @property
    def facts(self) -> Facts:
        return {"action": "set managed", "node": self.node.name, "managed": self.managed}


@dataclass(frozen=True, slots=True)
class DeleteLayout:
    """The node was handed back and is released, or it is another node by now."""

    layout: NodeLayout
    urgent: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return "nodelayout", self.layout.name

    @property
    def facts(self) -> Facts:
        return {"action": "delete NodeLayout", "node": self.layout.name}


@dataclass(frozen=True, slots=True)
class WriteSpec:
    """A node's new layout, on top of the version that the decision was made on."""

    layout: NodeLayout
    spec: LayoutSpec
    urgent: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return "nodelayout", self.layout.name

    @property
    def facts(self) -> Facts:
        layout = {gpu.uuid: slices_to_json(gpu.slices) for gpu in self.spec.gpus}
        return {"action": "write layout", "node": self.layout.name, "layout": layout}


@dataclass(frozen=True, slots=True)
class Nominate:
    """The scheduler is to keep the pod's place on `node` from others; "" gives the place up.

    `note` is the pod's progress annotation from then on, which says that the nomination is ours.
    """

    pod: Pod
    node: str
    note: str = ""
    urgent: ClassVar[bool] = True

    @property
    def key(self) -> Key:
        return "pod", self.pod.key

    @property
    def facts(self) -> Facts:
        return {"action": "nominate", "pod": self.pod.key, "node": self.node}


@dataclass(frozen=True, slots=True)
class Ungate:
    """The scheduler's turn: the pod's slices are bindable (`carved`), or no node can hold it.

    `place` is where they are: if they are not any more when it is to be written, it is not.
    """

    pod: Pod
    carved: bool
    place: Placement | None = field(default=None, compare=False)
    urgent: ClassVar[bool] = True

    @property
    def key(self) -> Key:
        return "pod", self.pod.key

    @property
    def facts(self) -> Facts:
        return {"action": "take gate away", "pod": self.pod.key, "carved": self.carved}


@dataclass(frozen=True, slots=True)
class Inform:
    """What the pod says of its progress: its annotation and its condition, where these change."""

    pod: Pod
    note: str | None = None
    available: Available | None = None
    urgent: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return "pod", self.pod.key

    @property
    def facts(self) -> Facts:
        reason = self.available.reason if self.available else ""
        return {"action": "inform", "pod": self.pod.key, "note": self.note, "reason": reason}


@dataclass(frozen=True, slots=True)
class Evict:
    """The pod has to make room for `by`, which waits for its end on the same node."""

    pod: Pod
    by: Pod
    urgent: ClassVar[bool] = True

    @property
    def key(self) -> Key:
        return "pod", self.pod.key

    @property
    def facts(self) -> Facts:
        return {"action": "evict", "pod": self.pod.key, "for": self.by.key}


Action = CreateLayout | SetManaged | DeleteLayout | WriteSpec | Nominate | Ungate | Inform | Evict
