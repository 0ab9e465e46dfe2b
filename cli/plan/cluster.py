"""Manifests to the planner's records: nodes, their layouts, and pods, as if the cluster had them.

Everything a user can get wrong is found here and named with file and line, so that what comes
behind may trust its input.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cli.errors import UnusableInput
from cli.reading.inventory import Notice
from cli.reading.manifests import FieldPath, Manifest
from mpslice.errors import InvalidNodeLayout, InvalidQuantity
from mpslice.kube.shapes import dotted
from mpslice.nodelayout import NodeLayout, parse_node_layout
from mpslice.quantities import parse_quantity
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.state.parse import parse_node, parse_pod

Json = Mapping[str, Any]

_BUILT_IN_PRIORITIES: Final = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
_MALFORMED: Final = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Priorities:
    """PriorityClasses by name, and what a pod without one gets. `unknown` collects the pods of
    classes that are not in the input, by class."""

    by_name: Mapping[str, int]
    default: int = 0
    unknown: dict[str, list[str]] = field(default_factory=dict)

    def of(self, pod: Manifest) -> int:
        """A pod's priority as the Priority admission plugin resolves it; the default where the
        class is not in the input."""
        spec = pod.obj.get("spec") or {}
        name = spec.get("priorityClassName")
        if isinstance(spec.get("priority"), int):
            return int(spec["priority"])
        if not name:
            return self.default
        if name not in self.by_name:
            self.unknown.setdefault(name, []).append(pod.key)
            return self.default
        return self.by_name[name]

    def warnings(self) -> Iterable[Notice]:
        """One for each class that is not in the input."""
        for name, pods in self.unknown.items():
            more = f" and {len(pods) - 1} more" if len(pods) > 1 else ""
            text = (
                f"PriorityClass {name} is not in the input: planned with priority {self.default}; "
                "give it with -f"
            )
            yield Notice(f"Pod {pods[0]}{more}", "PriorityClass", text)


def priorities(classes: Iterable[Manifest]) -> Priorities:
    """Reads PriorityClass objects."""
    by_name = dict(_BUILT_IN_PRIORITIES)
    default = 0
    for each in classes:
        value = each.obj.get("value") or 0
        by_name[each.obj["metadata"]["name"]] = value
        if each.obj.get("globalDefault"):
            default = value
    return Priorities(by_name, default)


def node_of(manifest: Manifest) -> Node:
    """Reads a Node; raises UnusableInput."""
    try:
        node = parse_node(manifest.obj)
        # Null stands for nothing, as in the API server.
        return replace(node, labels={key: value or "" for key, value in node.labels.items()})
    except InvalidQuantity as error:
        raise manifest.complaint(str(error), ("status",)) from error
    except _MALFORMED as error:
        raise _malformed(manifest, error) from error


def layout_of(manifest: Manifest) -> NodeLayout:
    """Reads a NodeLayout; raises UnusableInput."""
    try:
        return parse_node_layout(manifest.obj)
    except InvalidNodeLayout as error:
        raise manifest.complaint(str(error)) from error


def pod_of(manifest: Manifest, ranks: Priorities) -> Pod:
    """Reads a Pod that `check_pod` has seen, with its priority resolved; raises UnusableInput."""
    try:
        obj = {**manifest.obj, "spec": {**manifest.obj["spec"], "priority": ranks.of(manifest)}}
        return parse_pod(obj)
    except InvalidQuantity as error:
        raise manifest.complaint(str(error), ("spec",)) from error
    except _MALFORMED as error:
        raise _malformed(manifest, error) from error


def check_pod(manifest: Manifest, prefix: FieldPath = ("spec",)) -> None:
    """Refuses what no API server would take, so that admission and planning need not think of it.

    `prefix` is where the pod's spec stands, for the line that is named.
    """
    spec: Any = manifest.obj
    for step in prefix:
        spec = spec.get(step) if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list):
        raise manifest.complaint(f"{'.'.join(map(str, prefix))}.containers is missing", prefix)
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or ()):
            at = (*prefix, group, index)
            if not isinstance(container, dict) or not container.get("name"):
                raise manifest.complaint(f"{dotted(at)} has no name", at)
            _check_quantities(manifest, container, at)


def _check_quantities(manifest: Manifest, container: Json, at: FieldPath) -> None:
    for part in ("limits", "requests"):
        quantities = (container.get("resources") or {}).get(part) or {}
        for name, quantity in quantities.items():
            path = (*at, "resources", part, name)
            if quantity is None:
                raise manifest.complaint(f"{dotted(path)} is empty; write a number such as 1", path)
            try:
                negative = parse_quantity(quantity) < 0
            except InvalidQuantity as error:
                raise manifest.complaint(f"{dotted(path)}: {error}", path) from error
            if negative:
                message = f"{dotted(path)} is {quantity}; write a quantity of 0 or more"
                raise manifest.complaint(message, path)


def _malformed(manifest: Manifest, error: Exception) -> UnusableInput:
    return manifest.complaint(f"is malformed: {type(error).__name__} at {error}")
