"""What is kept of each object as it arrives, and what of one that cannot be read.

An object that cannot be read stops nothing. The log names it, or the record does.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mpslice.errors import InvalidNodeLayout
from mpslice.kube.api import Json
from mpslice.kube.reflector import key_of
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.model.preemption import DisruptionBudget
from planner.state.parse import Labels, parse_namespace, parse_node, parse_pod
from planner.state.preemptible import parse_budget

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A NodeLayout that contradicts itself or its format; its node is left alone."""

    problem: str


LayoutRecord = NodeLayout | Unreadable


def project_pod(obj: Json) -> Pod | None:
    """The pod; one that cannot be read and has a node counts as a problem of its node."""
    try:
        return parse_pod(obj)
    except Exception as error:  # noqa: BLE001  # whatever is in it, it stops nothing else
        log.error("a pod could not be read", extra={"pod": key_of(obj), "error": str(error)})
        return _unreadable_pod(obj, error)


def _unreadable_pod(obj: Json, error: Exception) -> Pod | None:
    """What is known of a pod that cannot be read: that its node holds more than can be counted."""
    spec = obj.get("spec")
    node = spec.get("nodeName") if isinstance(spec, Mapping) else None
    if not node or not isinstance(node, str):
        return None
    namespace, _, name = key_of(obj).rpartition("/")
    problem = f"pod {key_of(obj)} on it cannot be read ({error})"
    return Pod(namespace, name, str(obj["metadata"].get("uid")), node=node, problem=problem)


def project_node(obj: Json) -> Node:
    """A node that cannot be read still counts, with its labels, as one that holds nothing."""
    try:
        return parse_node(obj)
    except Exception as error:  # noqa: BLE001  # whatever is in it, it stops nothing else
        metadata = obj["metadata"]
        problem = f"its Node object cannot be read ({error})"
        return Node(
            name=metadata["name"],
            uid=metadata.get("uid") or "",
            labels=_texts(metadata.get("labels")),
            ready=False,
            problem=problem,
        )


def _texts(labels: object) -> Labels:
    """Of labels that may be none, those that are."""
    if not isinstance(labels, Mapping):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def project_namespace(obj: Json) -> Labels | None:
    """The namespace's labels; None where they cannot be read."""
    return _read(parse_namespace, obj, "a namespace")


def project_budget(obj: Json) -> DisruptionBudget | None:
    """The PodDisruptionBudget; None where it cannot be read."""
    return _read(parse_budget, obj, "a PodDisruptionBudget")


def _read(parse: Callable[[Json], T], obj: Json, what: str) -> T | None:
    try:
        return parse(obj)
    except Exception as error:  # noqa: BLE001  # whatever is in it, it stops nothing else
        log.error("%s could not be read", what, extra={"error": str(error)})
        return None


def project_layout(obj: Json) -> LayoutRecord:
    """The NodeLayout, or why it cannot be read."""
    try:
        return parse_node_layout(obj)
    except InvalidNodeLayout as error:
        log.error("a NodeLayout could not be read", extra={"error": str(error)})
        return Unreadable(str(error))
