"""The filters of relations between pods as kube-scheduler has them, read plainly and slowly."""

from collections.abc import Mapping
from dataclasses import replace

from planner.feasibility.nodes import selects, tolerates_taints
from planner.feasibility.selectors import all_hold
from planner.model.constraints import NAMESPACE_NAME, PodTerm, Relations, Spread
from planner.model.nodes import Node
from planner.model.plan import Cause
from planner.model.pods import Pod

NAMESPACES = {"one": {"team": "a"}, "two": {"team": "b"}}


def means(term: PodTerm, pod: Pod) -> bool:
    space = term.namespace_selector
    picked = pod.namespace in term.namespaces or (
        space is not None
        and all_hold(space, NAMESPACES.get(pod.namespace, {NAMESPACE_NAME: pod.namespace}))
    )
    return picked and term.selector is not None and all_hold(term.selector, pod.labels)


def plain_refusal(
    pod: Pod, node: Node, nodes: Mapping[str, Node], there: list[tuple[Pod, str]]
) -> Cause | None:
    """The filters read as they are written: everything counted afresh, for one pod and node."""

    def same(key: str, other: str) -> bool:
        mine = node.labels.get(key)
        return mine is not None and nodes[other].labels.get(key) == mine

    wanted, unwanted = pod.relations.affinity, pod.relations.anti_affinity
    matching = [at for other, at in there if wanted and all(means(t, other) for t in wanted)]
    if wanted:
        if any(t.topology_key not in node.labels for t in wanted):
            return Cause.POD_AFFINITY
        satisfied = all(any(same(t.topology_key, at) for at in matching) for t in wanted)
        anybody = any(t.topology_key in nodes[at].labels for at in matching for t in wanted)
        first = not anybody and all(means(t, pod) for t in wanted)
        if not satisfied and not first:
            return Cause.POD_AFFINITY
    for other, at in there:
        if any(means(t, other) and same(t.topology_key, at) for t in unwanted):
            return Cause.POD_AFFINITY
        if any(means(t, pod) and same(t.topology_key, at) for t in other.relations.anti_affinity):
            return Cause.POD_AFFINITY
    for spread in pod.relations.spread:
        if not plain_spread(pod, spread, node, nodes, there):
            return Cause.TOPOLOGY_SPREAD
    return None


def plain_guard(
    pod: Pod,
    node: Node,
    nodes: Mapping[str, Node],
    there: list[tuple[Pod, str]],
    booked: list[tuple[Pod, str]],
) -> Cause | None:
    """What the pass adds: those who are placed and not bound yet keep what they were promised."""
    for terms in {other.relations.affinity for other, _ in booked if other.relations.affinity}:
        if deserts(pod, node, terms, nodes, there, booked):
            return Cause.POD_AFFINITY
    after = [*there, *booked, (pod, node.name)]
    for other, at in booked:
        for spread in other.relations.spread:
            key = spread.topology_key
            own = Relations(spread=other.relations.spread)
            probe = replace(other, relations=own, labels={"of": "nobody"})
            mine = node.labels.get(key)
            if (
                mine is not None
                and mine == nodes[at].labels.get(key)
                and is_counted(pod, node, spread, other)
                and is_eligible(nodes[at], spread, other)
                and not plain_spread(probe, spread, node, nodes, after, own=0)
            ):
                return Cause.TOPOLOGY_SPREAD
    return None


def deserts(
    pod: Pod,
    node: Node,
    terms: tuple[PodTerm, ...],
    nodes: Mapping[str, Node],
    there: list[tuple[Pod, str]],
    booked: list[tuple[Pod, str]],
) -> bool:
    """Whether the pod would be the first elsewhere of a group whose placed members all wait."""

    keys = [term.topology_key for term in terms]

    def belongs(other: Pod, at: Node) -> bool:
        """The scheduler counts nobody on a node that is in no domain of any term."""
        return all(means(term, other) for term in terms) and any(k in at.labels for k in keys)

    if not belongs(pod, node) or pod.relations.affinity == terms:
        return False
    if any(belongs(other, nodes[at]) for other, at in there):
        return False
    members = [(other, at) for other, at in booked if belongs(other, nodes[at])]
    if not any(other.relations.affinity == terms for other, _ in members):
        return False
    if any(not other.relations.affinity for other, _ in members):
        return False  # one that waits for nobody may well be bound first
    return not all(
        any(
            node.labels.get(key) is not None and node.labels[key] == nodes[at].labels.get(key)
            for _, at in members
        )
        for key in keys
    )


def is_counted(pod: Pod, node: Node, spread: Spread, other: Pod) -> bool:
    return (
        is_eligible(node, spread, other)
        and pod.namespace == other.namespace
        and bool(spread.selector)
        and all_hold(spread.selector or (), pod.labels)
    )


def is_eligible(node: Node, spread: Spread, pod: Pod) -> bool:
    return (
        all(s.topology_key in node.labels for s in pod.relations.spread)
        and (not spread.honor_affinity or selects(pod.constraints, node))
        and (not spread.honor_taints or tolerates_taints(pod.constraints, node))
    )


def plain_spread(
    pod: Pod,
    spread: Spread,
    node: Node,
    nodes: Mapping[str, Node],
    there: list[tuple[Pod, str]],
    own: int | None = None,
) -> bool:
    if spread.topology_key not in node.labels:
        return False
    counts: dict[str, int] = {}
    for name, each in nodes.items():
        if not is_eligible(each, spread, pod):
            continue
        matching = [
            other
            for other, at in there
            if at == name
            and other.namespace == pod.namespace
            and not other.terminating
            and spread.selector
            and all_hold(spread.selector, other.labels)
        ]
        domain = each.labels[spread.topology_key]
        counts[domain] = counts.get(domain, 0) + len(matching)
    lowest = min(counts.values(), default=0) if len(counts) >= spread.min_domains else 0
    if own is None:
        own = int(spread.selector is not None and all_hold(spread.selector, pod.labels))
    return counts.get(node.labels[spread.topology_key], 0) + own - lowest <= spread.max_skew
