"""Manifests to the planner's records: nodes, their layouts, and pods, as if the cluster had them.

Everything a user can get wrong is found here and named with file and line, so that what comes
behind may trust its input.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cli.errors import UnusableInput
from cli.manifests import FieldPath, Manifest
from mpslice.errors import InvalidNodeLayout, InvalidQuantity
from mpslice.gpus import GpuUuid, MemoryUnit, capacity_gb, excluded_gpus
from mpslice.kube.shapes import dotted
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
    parse_node_layout,
)
from mpslice.quantities import parse_quantity
from planner.model import Node, Pod
from planner.state.parse import parse_node, parse_pod

Json = Mapping[str, Any]

_BUILT_IN_PRIORITIES: Final = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
_LABEL: Final = "nvidia.com/gpu."
_MOST_GPUS: Final = 1024
_MALFORMED: Final = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Priorities:
    """PriorityClasses by name, and what a pod without one gets."""

    by_name: Mapping[str, int]
    default: int = 0

    def of(self, pod: Manifest) -> int:
        """A pod's priority as the Priority admission plugin resolves it."""
        spec = pod.obj.get("spec") or {}
        name = spec.get("priorityClassName")
        if isinstance(spec.get("priority"), int):
            return int(spec["priority"])
        if not name:
            return self.default
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name))
            message = f"no PriorityClass {name!r} in the input; give it with -f (known: {known})"
            raise pod.complaint(message, ("spec", "priorityClassName"))
        return self.by_name[name]


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
    """Reads a Node."""
    try:
        return parse_node(manifest.obj)
    except InvalidQuantity as error:
        raise manifest.complaint(str(error), ("status",)) from error
    except _MALFORMED as error:
        raise _malformed(manifest, error) from error


def layout_of(manifest: Manifest) -> NodeLayout:
    """Reads a NodeLayout."""
    try:
        return parse_node_layout(manifest.obj)
    except InvalidNodeLayout as error:
        raise manifest.complaint(str(error)) from error


def labelled_layout(manifest: Manifest, node: Node, unit: MemoryUnit) -> NodeLayout:
    """The layout of a node whose GPUs are known from GPU Feature Discovery's labels alone.

    Raises UnusableInput when it has no such labels, or labels that are no numbers.
    """
    count = _label_number(manifest, node, "count")
    memory = _label_number(manifest, node, "memory")
    if not count or not memory:
        message = (
            "is labelled for mpslice, but neither a NodeLayout nor the labels nvidia.com/gpu.count "
            "and nvidia.com/gpu.memory say which GPUs it has; add one or the other"
        )
        raise manifest.complaint(message, ("metadata", "labels"))
    excluded = excluded_gpus(manifest.obj)
    gpus = tuple(
        GpuStatus(
            uuid=GpuUuid(f"{node.name}-gpu-{index}"),
            index=index,
            product=node.labels.get(f"{_LABEL}product", ""),
            memory_mib=memory,
            capacity_gb=capacity_gb(memory, unit),
            healthy=str(index) not in excluded,
            reason="Excluded" if str(index) in excluded else None,
        )
        for index in range(count)
    )
    ready = Condition(ConditionType.READY, True, "FromLabels")
    return NodeLayout(node.name, status=LayoutStatus(gpus=gpus, conditions=(ready,)))


def _label_number(manifest: Manifest, node: Node, key: str) -> int | None:
    text = node.labels.get(_LABEL + key)
    if text is None:
        return None
    bad = not isinstance(text, str) or not text.isascii() or not text.isdigit()
    if bad or int(text) < 1 or (key == "count" and int(text) > _MOST_GPUS):
        message = f"label {_LABEL}{key} is {text!r}; write a whole number above 0"
        raise manifest.complaint(message, ("metadata", "labels", _LABEL + key))
    return int(text)


def pod_of(manifest: Manifest, ranks: Priorities) -> Pod:
    """Reads a Pod, with its priority resolved."""
    check_pod(manifest)
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
            try:
                negative = parse_quantity(quantity) < 0
            except InvalidQuantity as error:
                raise manifest.complaint(f"{dotted(path)}: {error}", path) from error
            if negative:
                message = f"{dotted(path)} is {quantity}; write a quantity of 0 or more"
                raise manifest.complaint(message, path)


def _malformed(manifest: Manifest, error: Exception) -> UnusableInput:
    return manifest.complaint(f"is malformed: {type(error).__name__} at {error}")
