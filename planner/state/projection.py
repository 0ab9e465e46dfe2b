"""What is kept of each object as it arrives, and what of one that cannot be read.

What cannot be read is no reason to stop: it is named, in the log or in the record itself.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mpslice.errors import InvalidNodeLayout, InvalidQuantity
from mpslice.kube.api import Json
from mpslice.kube.reflector import key_of
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.model.preemption import DisruptionBudget
from planner.state.parse import Labels, parse_namespace, parse_node, parse_pod
from planner.state.preemptible import parse_budget

_MALFORMED: Final = (InvalidQuantity, AttributeError, KeyError, TypeError, ValueError)

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
    except _MALFORMED as error:
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
    except _MALFORMED as error:
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
    try:
        return parse_namespace(obj)
    except _MALFORMED as error:
        log.error("a namespace could not be read", extra={"error": str(error)})
        return None


def project_budget(obj: Json) -> DisruptionBudget | None:
    """The PodDisruptionBudget; None where it cannot be read."""
    try:
        return parse_budget(obj)
    except _MALFORMED as error:
        log.error("a PodDisruptionBudget could not be read", extra={"error": str(error)})
        return None


def project_layout(obj: Json) -> LayoutRecord:
    """The NodeLayout, or why it cannot be read."""
    try:
        return parse_node_layout(obj)
    except InvalidNodeLayout as error:
        log.error("a NodeLayout could not be read", extra={"error": str(error)})
        return Unreadable(str(error))
