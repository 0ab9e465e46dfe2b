"""A pod's required affinity, anti-affinity and topology spread, from Kubernetes JSON.

Everything that depends on the pod alone is settled here (its own namespace, matchLabelKeys), and
written in one normal form, so that replicas of a workload compare as equal.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from planner.model.constraints import (
    NO_RELATIONS,
    Expression,
    PodTerm,
    Relations,
    Selector,
    Spread,
    kept,
)

Json = Mapping[str, Any]

_LISTS: Final = frozenset({"In", "NotIn"})
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"


def parse_relations(spec: Json, namespace: str, labels: Mapping[str, str]) -> Relations:
    """Of a pod's spec; NO_RELATIONS itself when it demands nothing that must hold."""
    affinity, spread = spec.get("affinity"), spec.get("topologySpreadConstraints")
    if not affinity and not spread:
        return NO_RELATIONS
    affinity = affinity or {}
    relations = Relations(
        affinity=_terms(affinity.get("podAffinity"), namespace, labels),
        anti_affinity=_terms(affinity.get("podAntiAffinity"), namespace, labels),
        spread=tuple(
            _spread(constraint, labels)
            for constraint in spread or ()
            if constraint.get("whenUnsatisfiable") == "DoNotSchedule"
        ),
    )
    return NO_RELATIONS if relations == NO_RELATIONS else relations


def _terms(affinity: Json | None, namespace: str, labels: Mapping[str, str]) -> tuple[PodTerm, ...]:
    required = (affinity or {}).get(_REQUIRED) or ()
    return tuple(_term(term, namespace, labels) for term in required)


def _term(term: Json, namespace: str, labels: Mapping[str, str]) -> PodTerm:
    """Without namespaces and namespaceSelector it means the pod's own namespace
    (kube-scheduler/framework/types.go, getNamespacesFromPodAffinityTerm); an empty
    namespaceSelector means all of them.
    """
    names = term.get("namespaces") or ()
    selector = term.get("namespaceSelector")
    if not names and selector is None:
        names = (namespace,)
    wanted = term.get("labelSelector")
    # The API server has merged the keys at creation, from the labels that the pod had then.
    merged = {e.get("key") for e in (wanted or {}).get("matchExpressions") or ()}
    own = {key: value for key, value in labels.items() if key not in merged}
    extra = (
        *_own_values(term.get("matchLabelKeys"), "In", own),
        *_own_values(term.get("mismatchLabelKeys"), "NotIn", own),
    )
    return PodTerm(
        topology_key=term.get("topologyKey") or "",
        selector=parse_selector(wanted, extra),
        namespaces=frozenset(names),
        namespace_selector=parse_selector(selector),
    )


def _spread(constraint: Json, labels: Mapping[str, str]) -> Spread:
    """Defaults as pkg/scheduler/framework/plugins/podtopologyspread/common.go has them; the
    scheduler merges matchLabelKeys there by itself, whatever the API server has done.
    """
    own = _own_values(constraint.get("matchLabelKeys"), "In", labels)
    return Spread(
        topology_key=constraint.get("topologyKey") or "",
        selector=parse_selector(constraint.get("labelSelector"), tuple(own)),
        max_skew=int(constraint.get("maxSkew") or 1),
        min_domains=int(constraint.get("minDomains") or 1),
        honor_affinity=(constraint.get("nodeAffinityPolicy") or "Honor") == "Honor",
        honor_taints=(constraint.get("nodeTaintsPolicy") or "Ignore") == "Honor",
    )


def _own_values(
    keys: Iterable[str] | None, operator: str, labels: Mapping[str, str]
) -> Iterable[Expression]:
    """The requirements that stand for matchLabelKeys and mismatchLabelKeys; a label that the pod
    lacks is passed over (pkg/registry/core/pod/strategy.go, applyLabelKeysToLabelSelector).
    """
    for key in keys or ():
        if key in labels:
            yield Expression(key, operator, (labels[key] or "",))


def _each_once(requirement: Json) -> Iterable[str]:
    """Its values; what In and NotIn list means the same however often it is there."""
    values = requirement.get("values") or ()
    return set(values) if requirement.get("operator") in _LISTS else values


def parse_selector(selector: Json | None, extra: tuple[Expression, ...] = ()) -> Selector:
    """A LabelSelector in normal form. `extra` is added, but a missing selector stays nothing."""
    if selector is None:
        return None
    expressions = {
        *extra,
        *(
            Expression(key, "In", (value or "",))
            for key, value in (selector.get("matchLabels") or {}).items()
        ),
        *(
            Expression(
                e.get("key") or "",
                e.get("operator") or "",
                tuple(sorted(_each_once(e))),
            )
            for e in selector.get("matchExpressions") or ()
        ),
    }
    return kept(tuple(sorted(expressions, key=lambda e: (e.key, e.operator, e.values))))
