"""Which nodes a pod may use, as kube-scheduler's filter plugins decide it.

Only what does not depend on the other pods of a plan is here; room and ports are the ledger's.
Sources: pkg/scheduler/framework/plugins/{nodeaffinity,tainttoleration,nodeunschedulable}, and
component-helpers/scheduling/corev1/nodeaffinity.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from planner.model import (
    Cause,
    Constraints,
    Expression,
    HostPort,
    Node,
    NodeTerm,
    Pod,
    Taint,
    Toleration,
)

_UNSCHEDULABLE: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_BLOCKING: Final = frozenset({"NoSchedule", "NoExecute"})


def node_refusal(constraints: Constraints, node: Node) -> Cause | None:
    """The first cause for which the node's identity rules the pod out, or None."""
    if not node.ready:
        return Cause.NOT_READY
    if node.unschedulable and not _tolerates(constraints.tolerations, _UNSCHEDULABLE):
        return Cause.UNSCHEDULABLE
    if not _selects(constraints, node):
        return Cause.NODE_AFFINITY
    if not all(
        _tolerates(constraints.tolerations, taint)
        for taint in node.taints
        if taint.effect in _BLOCKING
    ):
        return Cause.TAINT
    return None


def _selects(constraints: Constraints, node: Node) -> bool:
    labels = node.labels
    if any(labels.get(key) != value for key, value in constraints.node_selector):
        return False
    terms = constraints.affinity
    return terms is None or any(_term_matches(term, node) for term in terms)


def _term_matches(term: NodeTerm, node: Node) -> bool:
    if not term.labels and not term.fields:
        return False
    return all(_holds(e, node.labels) for e in term.labels) and all(
        _holds(e, {"metadata.name": node.name}) for e in term.fields
    )


def _holds(expression: Expression, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _compare(value, expression.values) > 0
        case "Lt":
            return _compare(value, expression.values) < 0
    return False


def _compare(value: str | None, bounds: tuple[str, ...]) -> int:
    """-1, 0 or 1; 0, which fails both Gt and Lt, for what is no integer."""
    try:
        left, right = int(value or ""), int(bounds[0])
    except (ValueError, IndexError):
        return 0
    return (left > right) - (left < right)


def _tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator:
        case "" | "Equal":
            return toleration.key != "" and toleration.value == taint.value
        case "Exists":
            return True
    return False


def ports_clash(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> bool:
    """Whether a host port is taken already; 0.0.0.0 overlaps every address (nodeports.go)."""
    taken = tuple(taken)
    return any(
        want.port == have.port
        and want.protocol == have.protocol
        and (want.ip == have.ip or "0.0.0.0" in (want.ip, have.ip))
        for want in wanted
        for have in taken
    )


def label_keys(pods: Iterable[Pod]) -> frozenset[str]:
    """Every node label that one of the pods asks about: nodes alike in these are one class."""
    keys: set[str] = set()
    for constraints in {pod.constraints for pod in pods}:
        keys.update(key for key, _ in constraints.node_selector)
        for term in constraints.affinity or ():
            keys.update(expression.key for expression in term.labels)
    return frozenset(keys)


def asks_for_names(pods: Iterable[Pod]) -> bool:
    """Whether a pod selects nodes by name, so that every node is a class of its own."""
    return any(term.fields for pod in pods for term in pod.constraints.affinity or ())
