"""Which nodes a pod may use by their identity, as kube-scheduler's filter plugins decide it.

Only what does not depend on the other pods is here; room and ports are the ledger's, relations
between pods relations.py's. Sources: pkg/scheduler/framework/plugins/{nodeaffinity,
tainttoleration,nodeunschedulable,nodeports}, component-helpers/scheduling/corev1/nodeaffinity.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from planner.feasibility.selectors import all_hold, are_label_values, as_int64, keys_of
from planner.model.constraints import (
    ANY_ADDRESS,
    FEW,
    Constraints,
    Expression,
    HostPort,
    NodeTerm,
    Taint,
    Toleration,
    derived,
)
from planner.model.nodes import Node
from planner.model.plan import Cause
from planner.model.pods import Pod

_UNSCHEDULABLE: Final = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_BLOCKING: Final = frozenset({"NoSchedule", "NoExecute"})  # DoNotScheduleTaintsFilterFunc
_CANONICAL: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)  # IsDecimalInteger
_NAME: Final = "metadata.name"
_POSITIVE: Final = frozenset({"In", "Exists", "Gt", "Lt"})  # never hold without the label
_NEGATIVE: Final = frozenset({"NotIn", "DoesNotExist"})
_BY_VALUE: Final = frozenset({"", "Equal"})  # operators for which the taint has just that value
_OPERATORS: Final = ("", "Equal", "Exists", "Gt", "Lt")

_Place = tuple[str, str | None]
"""A label with a value, or with any."""


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
    if terms is None:
        return True
    some = terms if len(terms) <= FEW else derived(terms, _ByLabel).of(node)
    return any(_term_matches(term, node) for term in some)


def reaches_volumes(volumes: Iterable[tuple[NodeTerm, ...]], node: Node) -> bool:
    """Whether the node may use every volume: at least one term of each matches it
    (component-helpers/storage/volume/helpers.go, CheckNodeAffinity).
    """
    return all(any(_term_matches(term, node) for term in terms) for terms in volumes)


def _term_matches(term: NodeTerm, node: Node) -> bool:
    if not term.labels and not term.fields:
        return False
    # Old API servers take values that the scheduler cannot parse (labels.NewRequirement).
    if not derived(term.labels, _have_label_values):
        return False
    return all_hold(term.labels, node.labels) and all(
        _field_holds(field, node.name) for field in term.fields
    )


class _ByLabel:
    """Many terms, by what of a node lets them match, and by what keeps them from it."""

    __slots__ = ("_anywhere", "_barred", "_pinned", "_terms")

    def __init__(self, terms: tuple[NodeTerm, ...]) -> None:
        self._terms = [term for term in terms if derived(term.labels, _have_label_values)]
        self._anywhere: set[int] = set()  # terms that need nothing of a node to be there
        self._pinned: dict[_Place, list[int]] = {}  # each by the need that fewest terms have
        self._barred: dict[_Place, list[int]] = {}
        needs = [[tuple(_places(each)) for each in _needed(term)] for term in self._terms]
        asked = Counter(place for term in needs for places in term for place in places)
        for number, term in enumerate(self._terms):
            for each in term.labels:
                if each.operator in _NEGATIVE:
                    for place in _places(each):
                        self._barred.setdefault(place, []).append(number)
            if needs[number]:
                rarest = min(needs[number], key=lambda places: sum(map(asked.__getitem__, places)))
                for place in rarest:
                    self._pinned.setdefault(place, []).append(number)
            else:
                self._anywhere.add(number)

    def of(self, node: Node) -> Iterator[NodeTerm]:
        """The terms that can match the node."""
        labels = ((key, value) for key, value in node.labels.items() if value is not None)
        places = [place for key, value in labels for place in ((key, value), (key, None))]
        found = self._anywhere.union(*(self._pinned.get(place, ()) for place in places))
        found.difference_update(*(self._barred.get(place, ()) for place in places))
        return (self._terms[number] for number in sorted(found))


def _needed(term: NodeTerm) -> Iterator[Expression]:
    """Those that never hold where the label is missing."""
    return (each for each in term.labels if each.operator in _POSITIVE)


def _places(requirement: Expression) -> Iterator[_Place]:
    """The labels that it asks for or does not want, with a value, or with any."""
    if requirement.operator in {"In", "NotIn"}:
        for value in requirement.values:
            yield requirement.key, value
    else:
        yield requirement.key, None


def _have_label_values(requirements: tuple[Expression, ...]) -> bool:
    return all(derived(each.values, are_label_values) for each in requirements)


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


def _tolerates(tolerations: tuple[Toleration, ...], taint: Taint) -> bool:
    if len(tolerations) > FEW:
        tolerations = derived(tolerations, _ByTaint).of(taint)
    return any(_matches(toleration, taint) for toleration in tolerations)


class _ByTaint:
    """Many tolerations, by what they tolerate: only a few can match a taint."""

    __slots__ = ("_known",)

    def __init__(self, tolerations: tuple[Toleration, ...]) -> None:
        self._known: dict[tuple[str, ...], Toleration] = {}
        for each in tolerations:
            place = self._place(each.operator, each.key, each.effect, each.value)
            known = self._known.get(place)
            if known is None or _is_wider(each, known):
                self._known[place] = each

    @staticmethod
    def _place(operator: str, key: str, effect: str, value: str) -> tuple[str, ...]:
        """The same only for those of which one tolerates all that the others do."""
        return operator, key, effect, value if operator in _BY_VALUE else ""

    def of(self, taint: Taint) -> tuple[Toleration, ...]:
        """Those that may match the taint: where none of them does, none does at all."""
        places = (
            self._place(operator, key, effect, taint.value)
            for operator in _OPERATORS
            for key in (taint.key, "")
            for effect in (taint.effect, "")
        )
        return tuple(self._known[place] for place in places if place in self._known)


def _is_wider(one: Toleration, other: Toleration) -> bool:
    """Of two that differ in their value alone, whether the first tolerates more."""
    if one.operator not in {"Gt", "Lt"}:
        return False
    bound, least = _canonical(one.value), _canonical(other.value)
    if bound is None or least is None:
        return least is None
    return bound < least if one.operator == "Gt" else bound > least


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


def ports_clash(wanted: Collection[HostPort], taken: Collection[HostPort]) -> bool:
    """Whether a host port is taken already."""
    return any(clashing(wanted, taken))


def clashing(wanted: Collection[HostPort], taken: Collection[HostPort]) -> Iterator[HostPort]:
    """Which of the host ports are taken already; 0.0.0.0 overlaps every address
    (kube-scheduler/framework/types.go, HostPortInfo.CheckConflict).
    """
    if not taken:
        return
    asked = {(want.port, want.protocol) for want in wanted}
    there: dict[tuple[int, str], set[str]] = {}
    for have in taken:
        place = have.port, have.protocol
        if place in asked:
            there.setdefault(place, set()).add(have.ip)
    if not there:
        return
    for want in wanted:
        ips = there.get((want.port, want.protocol))
        if ips and (want.ip in ips or ANY_ADDRESS in ips or want.ip == ANY_ADDRESS):
            yield want


def label_keys(pods: Iterable[Pod]) -> frozenset[str]:
    """Every node label that one of the pods asks about: nodes alike in these are one class."""
    keys: set[str] = set()
    for constraints in {pod.constraints for pod in pods}:
        keys.update(key for key, _ in constraints.node_selector)
        for term in constraints.affinity or ():
            keys.update(derived(term.labels, keys_of))
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
