"""Which nodes a pod may use by their identity, as kube-scheduler's filter plugins decide it.

Only what does not depend on the other pods is here; room and ports are the ledger's, relations
between pods relations.py's. Sources: pkg/scheduler/framework/plugins/{nodeaffinity,
tainttoleration,nodeunschedulable,nodeports}, component-helpers/scheduling/corev1/nodeaffinity.
"""

import re
from collections.abc import Iterable
from typing import Final

from planner.feasibility.selectors import all_hold, as_int64, is_label_value
from planner.model.constraints import (
    ANY_ADDRESS,
    Constraints,
    Expression,
    HostPort,
    NodeTerm,
    Taint,
    Toleration,
)
from planner.model.nodes import Node
from planner.model.plan import Cause
from planner.model.pods import Pod

_UNSCHEDULABLE: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_BLOCKING: Final = frozenset({"NoSchedule", "NoExecute"})  # DoNotScheduleTaintsFilterFunc
_CANONICAL: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)  # IsDecimalInteger
_NAME: Final = "metadata.name"


def node_refusal(constraints: Constraints, node: Node) -> Cause | None:
    """The first cause for which the node's identity rules the pod out, or None.

    It looks at readiness, `unschedulable`, labels, taints, the name and whether mpslice.io/gb is
    offered, and at nothing else.
    """
    if not node.ready:
        return Cause.NOT_READY
    if node.unschedulable and not _tolerates(constraints.tolerations, _UNSCHEDULABLE):
        return Cause.UNSCHEDULABLE
    if not selects(constraints, node):
        return Cause.NODE_AFFINITY
    if node.taints and not tolerates_taints(constraints, node):
        return Cause.TAINT
    if constraints.gb and not node.offers_gb:
        return Cause.EXTENDED_RESOURCE
    return None


def selects(constraints: Constraints, node: Node) -> bool:
    """Whether nodeSelector and required node affinity both let the node through.

    Terms are alternatives; without any, and in an empty one, nothing matches (nodeaffinity.go,
    RequiredNodeAffinity.Match).
    """
    labels = node.labels
    if any(labels.get(key) != value for key, value in constraints.node_selector):
        return False
    terms = constraints.affinity
    return terms is None or any(_term_matches(term, node) for term in terms)


def reaches_volumes(volumes: Iterable[tuple[NodeTerm, ...]], node: Node) -> bool:
    """Whether the node may use every volume: at least one term of each matches it
    (component-helpers/storage/volume/helpers.go, CheckNodeAffinity).
    """
    return all(any(_term_matches(term, node) for term in terms) for terms in volumes)


def _term_matches(term: NodeTerm, node: Node) -> bool:
    if not term.labels and not term.fields:
        return False
    # Old API servers take values that the scheduler cannot parse (labels.NewRequirement).
    if not all(is_label_value(value) for each in term.labels for value in each.values):
        return False
    return all_hold(term.labels, node.labels) and all(
        _field_holds(field, node.name) for field in term.fields
    )


def _field_holds(field: Expression, name: str) -> bool:
    """Fields know In and NotIn with one value, and an unknown field is the empty string
    (nodeSelectorRequirementsAsFieldSelector).
    """
    if len(field.values) != 1:
        return False
    is_it = field.values[0] == (name if field.key == _NAME else "")
    return (field.operator == "In" and is_it) or (field.operator == "NotIn" and not is_it)


def tolerates_taints(constraints: Constraints, node: Node) -> bool:
    """Whether the pod tolerates every taint that keeps pods off (FindMatchingUntoleratedTaint)."""
    return untolerated(constraints, node) is None


def untolerated(constraints: Constraints, node: Node) -> Taint | None:
    """The first taint that keeps the pod off the node."""
    for taint in node.taints:
        if taint.effect in _BLOCKING and not _tolerates(constraints.tolerations, taint):
            return taint
    return None


def _tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    """api/core/v1/toleration.go, ToleratesTaint.

    Gt and Lt are behind the alpha gate TaintTolerationComparisonOperators; without it the API
    server takes no pod that has them, so a pod that has them lives where they count.
    """
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator:
        case "" | "Equal":
            return toleration.value == taint.value
        case "Exists":
            return True
        case "Gt" | "Lt":
            bound, value = _canonical(toleration.value), _canonical(taint.value)
            if bound is None or value is None:
                return False
            return value > bound if toleration.operator == "Gt" else value < bound
    return False


def _canonical(text: str) -> int | None:
    return as_int64(text) if _CANONICAL.fullmatch(text) else None


def ports_clash(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> bool:
    """Whether a host port is taken already; 0.0.0.0 overlaps every address
    (kube-scheduler/framework/types.go, HostPortInfo.CheckConflict).
    """
    taken = tuple(taken)
    return any(
        want.port == have.port
        and want.protocol == have.protocol
        and (want.ip == have.ip or ANY_ADDRESS in (want.ip, have.ip))
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


def asks_for_names(constraints: Constraints) -> bool:
    """Whether nodes that are alike in labels and taints may still differ for the pod."""
    return any(term.fields for term in constraints.affinity or ())


def names_listed(constraints: Constraints) -> frozenset[str] | None:
    """The names one of which a node must have; None when the terms leave other nodes open."""
    names: set[str] = set()
    for term in constraints.affinity or ():
        listed = [set(e.values) for e in term.fields if e.operator == "In" and e.key == _NAME]
        if not listed:
            return None
        names |= set.intersection(*listed)
    return frozenset(names)
