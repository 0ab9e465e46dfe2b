"""Which pods count in which tally: every term of a planning pass with the pods that it means.

Apart from the verdicts (relations.py), because a pod counts for others whether or not it demands
anything itself. Sources: kube-scheduler/framework/types.go, AffinityTerm.Matches;
pkg/scheduler/framework/plugins/podtopologyspread/{common,filtering}.go.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, TypeVar

from planner.feasibility.nodes import selects, tolerates_taints
from planner.feasibility.selectors import all_hold, keys_of
from planner.feasibility.tallies import SpreadTally, Tally, Together
from planner.model.constraints import (
    NAMESPACE_NAME,
    Constraints,
    Expression,
    PodTerm,
    Selector,
    Spread,
    derived,
)
from planner.model.nodes import Node
from planner.model.pods import Pod

T = TypeVar("T")
AnyTally = Tally | SpreadTally | Together
_MANY: Final = 64  # values of a label


def _pin(selector: tuple[Expression, ...]) -> Expression | None:
    """A requirement for one of a few values of a label."""
    return next((e for e in selector if e.operator == "In" and len(e.values) <= _MANY), None)


class _BySelector(Generic[T]):
    """Items by a label that their selector wants, so that few selectors are tried on a pod."""

    __slots__ = ("_others", "_pinned")

    def __init__(self) -> None:
        self._pinned: dict[tuple[str, str], list[tuple[tuple[Expression, ...], T]]] = {}
        self._others: list[tuple[tuple[Expression, ...], T]] = []

    def add(self, selector: Selector, item: T) -> None:
        if selector is None:
            return
        pin = derived(selector, _pin)
        if pin is None:
            self._others.append((selector, item))
            return
        for value in set(pin.values):
            self._pinned.setdefault((pin.key, value), []).append((selector, item))

    def matching(self, labels: Mapping[str, str]) -> Iterator[T]:
        for pair in labels.items():
            for selector, item in self._pinned.get(pair, ()):
                if all_hold(selector, labels):
                    yield item
        for selector, item in self._others:
            if all_hold(selector, labels):
                yield item


class Census:
    """The tallies of a pass. All that are needed must be opened before the first pod is counted."""

    def __init__(
        self, nodes: Mapping[str, Node], namespaces: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._nodes = nodes
        self._namespaces = namespaces
        self._domains: dict[object, dict[str, str]] = {}
        self._together: dict[tuple[PodTerm, ...], Together] = {}
        self._apart: dict[PodTerm, Tally] = {}
        self._carried: dict[PodTerm, Tally] = {}
        self._spread: dict[object, tuple[SpreadTally, ...]] = {}
        self._watching: _BySelector[tuple[Callable[[Pod], bool], AnyTally]] = _BySelector()
        self._repelling: _BySelector[tuple[PodTerm, Tally]] = _BySelector()
        self.label_keys: set[str] = set()
        """Every pod label that some selector looks at."""

    def means(self, term: PodTerm, pod: Pod) -> bool:
        """Whether a term of affinity or anti-affinity means the pod."""
        return (
            term.selector is not None
            and (pod.namespace in term.namespaces or self._in_namespace(term, pod.namespace))
            and all_hold(term.selector, pod.labels)
        )

    def _in_namespace(self, term: PodTerm, namespace: str) -> bool:
        if term.namespace_selector is None:
            return False
        labels = self._namespaces.get(namespace, {NAMESPACE_NAME: namespace})
        return all_hold(term.namespace_selector, labels)

    def together(self, terms: tuple[PodTerm, ...]) -> Together:
        """The pods that satisfy all of a pod's affinity terms."""
        group = self._together.get(terms)
        if group is None:
            group = Together(tuple(Tally(self._by_key(term.topology_key)) for term in terms))
            self._together[terms] = group
            self._watch(
                terms[0].selector, lambda pod: all(self.means(t, pod) for t in terms), group
            )
            self._note(*(term.selector for term in terms))
        return group

    def begin(self) -> None:
        """All who are bound have been counted."""
        for group in self._together.values():
            group.begin()

    def apart(self, term: PodTerm) -> Tally:
        """The pods that a term of anti-affinity means."""
        tally = self._apart.get(term)
        if tally is None:
            tally = self._apart[term] = Tally(self._by_key(term.topology_key))
            self._watch(term.selector, lambda pod: self.means(term, pod), tally)
        return tally

    def carried(self, term: PodTerm) -> Tally:
        """The pods that themselves have a term of anti-affinity."""
        tally = self._carried.get(term)
        if tally is None:
            tally = self._carried[term] = Tally(self._by_key(term.topology_key))
            self._repelling.add(term.selector, (term, tally))
            self._note(term.selector)
        return tally

    def spread(
        self, namespace: str, spreads: tuple[Spread, ...], constraints: Constraints
    ) -> tuple[SpreadTally, ...]:
        """For each of a pod's constraints its namespace's pods that the constraint means."""
        key = (namespace, spreads, constraints)
        tallies = self._spread.get(key)
        if tallies is None:
            keys = frozenset(spread.topology_key for spread in spreads)
            tallies = tuple(
                SpreadTally(spread, self._eligible(spread, keys, constraints)) for spread in spreads
            )
            self._spread[key] = tallies
            for spread, tally in zip(spreads, tallies, strict=True):
                # An empty selector counts no pod that is there already (countPodsMatchSelector).
                if spread.selector:
                    self._watch(
                        spread.selector,
                        lambda pod: pod.namespace == namespace and not pod.terminating,
                        tally,
                    )
        return tallies

    def counted_in(self, pod: Pod) -> tuple[AnyTally, ...]:
        """Every tally that the pod changes where it is put."""
        meant = [tally for means, tally in self._watching.matching(pod.labels) if means(pod)]
        return (*meant, *(self.carried(term) for term in pod.relations.anti_affinity))

    def repelling(self, pod: Pod) -> tuple[Tally, ...]:
        """The tallies of those whose anti-affinity means the pod."""
        return tuple(
            tally for term, tally in self._repelling.matching(pod.labels) if self.means(term, pod)
        )

    def _watch(self, selector: Selector, means: Callable[[Pod], bool], tally: AnyTally) -> None:
        self._watching.add(selector, (means, tally))
        self._note(selector)

    def _note(self, *selectors: Selector) -> None:
        for selector in selectors:
            self.label_keys.update(derived(selector or (), keys_of))

    def _by_key(self, key: str) -> dict[str, str]:
        return self._domain_map(key, lambda node: key in node.labels, key)

    def _eligible(
        self, spread: Spread, keys: frozenset[str], constraints: Constraints
    ) -> dict[str, str]:
        """The domains of nodes that have every key of the pod's constraints and that this one's
        policies let count (matchNodeInclusionPolicies); cordoned and unready nodes count too.
        """
        selective = spread.honor_affinity and (
            bool(constraints.node_selector) or constraints.affinity is not None
        )

        def counts(node: Node) -> bool:
            return (
                all(key in node.labels for key in keys)
                and (not selective or selects(constraints, node))
                and (not spread.honor_taints or tolerates_taints(constraints, node))
            )

        asked = constraints if selective or spread.honor_taints else None
        memo = (spread.topology_key, keys, selective, spread.honor_taints, asked)
        return self._domain_map(memo, counts, spread.topology_key)

    def _domain_map(self, memo: object, counts: Callable[[Node], bool], key: str) -> dict[str, str]:
        known = self._domains.get(memo)
        if known is None:
            known = self._domains[memo] = {
                name: node.labels[key] for name, node in self._nodes.items() if counts(node)
            }
        return known
