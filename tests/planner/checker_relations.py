"""Whether pods that depend on one another can be bound as planned, read anew for every step.

The rules are those of pkg/scheduler/framework/plugins/{interpodaffinity,podtopologyspread},
filtering.go, with nothing remembered from one pod to the next.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from planner.model.constraints import NAMESPACE_NAME, PodTerm, Selector, Spread
from planner.model.nodes import Node
from planner.model.plan import Placement
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from tests.planner.checker_matching import all_hold, selects, untolerated

There = Sequence[tuple[Pod, Node]]
"""Pods that stand already, with their nodes."""


def unbindable(snapshot: Snapshot, placements: Sequence[Placement]) -> Iterator[str]:
    """A sentence for each placed pod that its relations keep from its node, whoever goes first."""
    around = snapshot.neighbours
    nodes = {node.name: node for node in (*around.nodes, *(s.node for s in snapshot.nodes))}
    there = [(pod, nodes[at]) for at, pods in around.pods.items() if at in nodes for pod in pods]
    if not any(_relates(each.pod) for each in placements) and not any(
        _relates(p) for p, _ in there
    ):
        return
    judge = _Judge(nodes, around.namespaces)
    waiting = [placement for placement in placements if placement.node in nodes]
    while waiting:
        able = [p for p in waiting if judge.admits(p.pod, nodes[p.node], there)]
        if not able:
            break
        there.append((able[0].pod, nodes[able[0].node]))
        waiting.remove(able[0])
    for placement in waiting:
        yield f"the relations of {placement.pod.key} keep it from {placement.node}"


def _relates(pod: Pod) -> bool:
    relations = pod.relations
    return bool(relations.affinity or relations.anti_affinity or relations.spread)


def _picks(selector: Selector, pod: Pod) -> bool:
    return selector is not None and all_hold(selector, pod.labels)


class _Judge:
    """The cluster as relations see it."""

    def __init__(
        self, nodes: Mapping[str, Node], namespaces: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._nodes = nodes
        self._namespaces = namespaces

    def admits(self, pod: Pod, node: Node, there: There) -> bool:
        """Whether all that must hold does, if the pod comes to the node now."""
        relations = pod.relations
        return (
            self._is_near(pod, node, there)
            and not any(
                self._means(term, other) and _together(term.topology_key, node, at)
                for other, at in there
                for term in relations.anti_affinity
            )
            and not any(
                self._means(term, pod) and _together(term.topology_key, node, at)
                for other, at in there
                for term in other.relations.anti_affinity
            )
            and all(self._spreads(pod, spread, node, there) for spread in relations.spread)
        )

    def _means(self, term: PodTerm, pod: Pod) -> bool:
        labels = self._namespaces.get(pod.namespace, {NAMESPACE_NAME: pod.namespace})
        space = term.namespace_selector
        picked = pod.namespace in term.namespaces or (space is not None and all_hold(space, labels))
        return picked and _picks(term.selector, pod)

    def _is_near(self, pod: Pod, node: Node, there: There) -> bool:
        """Each affinity term is met by pods that satisfy all terms, or the pod is the first one."""
        terms = pod.relations.affinity
        if not all(term.topology_key in node.labels for term in terms):
            return False
        group = [at for other, at in there if all(self._means(term, other) for term in terms)]
        if all(any(_together(term.topology_key, node, at) for at in group) for term in terms):
            return True
        somewhere = any(term.topology_key in at.labels for term in terms for at in group)
        return not somewhere and all(self._means(term, pod) for term in terms)

    def _spreads(self, pod: Pod, spread: Spread, node: Node, there: There) -> bool:
        key = spread.topology_key
        if key not in node.labels:
            return False
        counts = Counter(
            {at.labels[key]: 0 for at in self._nodes.values() if _counts(pod, spread, at)}
        )
        for other, at in there:
            if (
                spread.selector
                and _picks(spread.selector, other)
                and other.namespace == pod.namespace
                and not other.terminating
                and _counts(pod, spread, at)
            ):
                counts[at.labels[key]] += 1
        emptiest = 0 if len(counts) < spread.min_domains else min(counts.values(), default=0)
        own = 1 if _picks(spread.selector, pod) else 0
        return counts[node.labels[key]] + own - emptiest <= spread.max_skew


def _together(key: str, node: Node, other: Node) -> bool:
    return key in node.labels and node.labels[key] == other.labels.get(key)


def _counts(pod: Pod, spread: Spread, node: Node) -> bool:
    """Whether a node is in a domain of the constraint: it has all keys and its policies say so."""
    return (
        all(each.topology_key in node.labels for each in pod.relations.spread)
        and (not spread.honor_affinity or selects(pod.constraints, node))
        and (not spread.honor_taints or not untolerated(pod.constraints, node, cordon=False))
    )
