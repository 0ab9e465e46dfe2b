"""Selectors, taints and tolerations read as the API documents them, for the plan's checker."""

from collections.abc import Iterable, Mapping

from planner.model.constraints import Constraints, Expression, NodeTerm, Taint, Toleration
from planner.model.nodes import Node

_CORDON = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


def selects(constraints: Constraints, node: Node) -> bool:
    """Whether node selector and required node affinity allow the node."""
    if any(node.labels.get(key) != value for key, value in constraints.node_selector):
        return False
    terms = constraints.affinity
    return terms is None or any(_term_holds(term, node) for term in terms)


def _term_holds(term: NodeTerm, node: Node) -> bool:
    if not term.labels and not term.fields:
        return False
    name = {"metadata.name": node.name}
    return all_hold(term.labels, node.labels) and all_hold(term.fields, name)


def all_hold(expressions: Iterable[Expression], labels: Mapping[str, str]) -> bool:
    """Whether labels meet every requirement."""
    return all(_holds(each, labels) for each in expressions)


def _holds(expression: Expression, labels: Mapping[str, str]) -> bool:
    here = expression.key in labels
    value = labels.get(expression.key, "")
    if expression.operator in {"Gt", "Lt"}:
        if not here or not _is_integer(value) or not _is_integer(expression.values[0]):
            return False
        left, right = int(value), int(expression.values[0])
        return left > right if expression.operator == "Gt" else left < right
    return {
        "Exists": here,
        "DoesNotExist": not here,
        "In": here and value in expression.values,
        "NotIn": not here or value not in expression.values,
    }[expression.operator]


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdigit()


def untolerated(constraints: Constraints, node: Node, *, cordon: bool = True) -> list[Taint]:
    """The taints that keep a pod off; a cordoned node counts as tainted where `cordon` says so."""
    taints = [taint for taint in node.taints if taint.effect in {"NoSchedule", "NoExecute"}]
    if cordon and node.unschedulable:
        taints.append(_CORDON)
    return [t for t in taints if not any(_tolerates(each, t) for each in constraints.tolerations)]


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in {"", taint.effect}:
        return False
    if toleration.operator == "Exists":
        return toleration.key in {"", taint.key}
    return toleration.key == taint.key and toleration.value == taint.value
