"""Relations between pods in one planning pass: affinity, anti-affinity and topology spread.

Mutable and private to a pass, like the ledger that asks it. The rules are those of kube-scheduler's
pkg/scheduler/framework/plugins/{interpodaffinity,podtopologyspread}/filtering.go; what the
scheduler counts afresh for each pod is kept up to date here as pods are booked and taken back.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.feasibility.census import AnyTally, Census
from planner.feasibility.selectors import all_hold
from planner.feasibility.tallies import SpreadTally, Tally, Together
from planner.model.constraints import NO_RELATIONS
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Demands:
    """All that can refuse a pod a node; pods alike share one, so it is compared by identity.

    `together` is for the pod's affinity terms, `itself` whether it satisfies them; `apart` are
    tallies that must be 0 near the node; `spread` are its constraints, with 1 where it counts
    itself. `groups` and `crowding` are of other pods that count it.
    """

    together: Together | None
    itself: bool
    apart: tuple[Tally, ...]
    spread: tuple[tuple[SpreadTally, int], ...]
    groups: tuple[Together, ...]
    crowding: tuple[SpreadTally, ...]

    def refusal(self, node: str, labels: Mapping[str, str]) -> Cause | None:
        if self.together is not None and not self.together.admits(node, itself=self.itself):
            return Cause.POD_AFFINITY
        if any(tally.near(node) for tally in self.apart):
            return Cause.POD_AFFINITY
        if not all(tally.allows(labels, own) for tally, own in self.spread):
            return Cause.TOPOLOGY_SPREAD
        if any(group.is_deserted_by(node) for group in self.groups):
            return Cause.POD_AFFINITY
        if any(tally.is_full(node) for tally in self.crowding):
            return Cause.TOPOLOGY_SPREAD
        return None

    def note(self, node: str, by: int) -> None:
        """The pod is placed on the node, or with -1 not any more."""
        if self.together is not None:
            if self.itself:
                self.together.lean(node, by)
            for group in self.groups:
                group.depend(node, by)
        for tally, _ in self.spread:
            tally.guard(node, by)

    @property
    def may_relent(self) -> bool:
        """Whether others' coming can make room: only anti-affinity never relents."""
        return bool(self.together or self.spread or self.groups or self.crowding)

    @property
    def version(self) -> int:
        """Rises with each change that could alter an answer."""
        return sum(each.version for each in self._observed())

    def _observed(self) -> Iterator[Tally | SpreadTally | Together]:
        for group in ((self.together,) if self.together else ()) + self.groups:
            yield from group.tallies
        yield from self.groups
        yield from self.apart
        yield from (tally for tally, _ in self.spread)
        yield from self.crowding

    def _located(self) -> list[Tally | SpreadTally]:
        return [each for each in self._observed() if not isinstance(each, Together)]

    def cell(self, node: str, labels: Mapping[str, str]) -> Hashable:
        """Equal for nodes that get the same answer, whatever happens."""
        mine = (labels.get(tally.key) for tally, _ in self.spread)
        return (*mine, *(tally.domain(node) for tally in self._located()))

    def deafen(self) -> None:
        """Tells nobody anything any more."""
        for each in self._observed():
            each.listeners.clear()

    def listen(self, nodes: Iterable[str], tell: Callable[[Sequence[str] | None], None]) -> None:
        """From now on `tell` is told the nodes whose answers may have changed, None for all."""
        names = list(nodes)
        for each in self._observed():
            places: dict[str | None, list[str]] = {}
            if not isinstance(each, Together):
                for name in names:
                    places.setdefault(each.domain(name), []).append(name)
            each.listeners.append(
                lambda domain, places=places: tell(  # type: ignore[misc]
                    None if domain is None else places.get(domain, ())
                )
            )


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a pod of the pass changes, and what it demands: None when nothing can refuse it."""

    pod: Pod  # kept, so that its id() stays its own
    tallies: tuple[AnyTally, ...]
    demands: Demands | None


class RelationBook:
    """Who is where in a pass, as far as relations between pods go.

    When `active` is False no pod can be refused for a relation: nothing was built, and nothing
    need be asked or booked. Pods asked about and booked are those of `pending`.
    """

    __slots__ = (
        "_census",
        "_demands",
        "_effects",
        "_keys",
        "_nodes",
        "_standing",
        "active",
    )

    def __init__(self, snapshot: Snapshot, pending: Iterable[Pod]) -> None:
        around = snapshot.neighbours
        related = [pod for pod in pending if pod.relations is not NO_RELATIONS]
        self.active = bool(related or around.repelling)
        if not self.active:
            return
        self._nodes = {node.name: node for node in around.nodes}
        self._nodes.update((state.node.name, state.node) for state in snapshot.nodes)
        self._census = Census(self._nodes, around.namespaces)
        self._effects: dict[Hashable, tuple[AnyTally, ...]] = {}
        self._demands: dict[Hashable, Demands | None] = {}
        self._standing: dict[int, _Standing] = {}
        self._open(related)
        for pod in (*related, *around.repelling):
            for term in pod.relations.anti_affinity:
                self._census.carried(term)
        self._keys = self._census.label_keys
        for node, pods in around.pods.items():
            for pod in pods:
                for tally in self._tallies(pod):
                    tally.change(node, 1)
        self._census.begin()

    def _open(self, related: Iterable[Pod]) -> None:
        for pod in related:
            relations = pod.relations
            if relations.affinity:
                self._census.together(relations.affinity)
            for term in relations.anti_affinity:
                self._census.apart(term)
            if relations.spread:
                self._census.spread(pod.namespace, relations.spread, pod.constraints)

    def refuses(self, pod: Pod, node: str) -> Cause | None:
        """POD_AFFINITY or TOPOLOGY_SPREAD when the node is ruled out by who is where now.

        Stricter than the scheduler in one thing: a pod may not take from others of this pass what
        they were placed for, as it could be bound before them: by pushing them beyond their spread,
        or by founding elsewhere a group that they want to be near.
        """
        demands = self._of(pod).demands
        return None if demands is None else demands.refusal(node, self._nodes[node].labels)

    def add(self, pod: Pod, node: str) -> None:
        """The pod counts as bound to the node from now on."""
        self._book(pod, node, 1)

    def remove(self, pod: Pod, node: str) -> None:
        """Takes `add` back."""
        self._book(pod, node, -1)

    def _book(self, pod: Pod, node: str, by: int) -> None:
        standing = self._of(pod)
        for tally in standing.tallies:
            tally.change(node, by)
        if standing.demands is not None:
            standing.demands.note(node, by)

    def alike(self, pod: Pod) -> Demands | None:
        """Equal for pods that `refuses` answers alike, None for those that it never refuses."""
        return self._of(pod).demands

    def counts(self, pod: Pod) -> bool:
        """Whether another pod may be refused or let in for this one's being where it is."""
        return bool(self._of(pod).tallies)

    def may_come_to_fit(self, pod: Pod) -> bool:
        """Whether placing others can make room for the pod."""
        demands = self._of(pod).demands
        return demands is not None and demands.may_relent

    def _of(self, pod: Pod) -> _Standing:
        known = self._standing.get(id(pod))
        if known is None:
            known = _Standing(pod, self._tallies(pod), self._demands_of(pod))
            self._standing[id(pod)] = known
        return known

    def _shape(self, pod: Pod) -> Hashable:
        """All of a pod that relations look at."""
        labels, keys = pod.labels, self._keys
        looked_at = [(key, labels[key]) for key in labels.keys() & keys]
        return (
            pod.namespace,
            pod.terminating,
            frozenset(looked_at),
            None if pod.relations is NO_RELATIONS else pod.relations,
        )

    def _tallies(self, pod: Pod) -> tuple[AnyTally, ...]:
        shape = self._shape(pod)
        known = self._effects.get(shape)
        if known is None:
            known = self._effects[shape] = self._census.counted_in(pod)
        return known

    def _demands_of(self, pod: Pod) -> Demands | None:
        shape = (self._shape(pod), pod.constraints if pod.relations.spread else None)
        if shape not in self._demands:
            self._demands[shape] = self._make_demands(pod)
        return self._demands[shape]

    def _make_demands(self, pod: Pod) -> Demands | None:
        census, relations = self._census, pod.relations
        together = census.together(relations.affinity) if relations.affinity else None
        apart = (
            *(census.apart(term) for term in relations.anti_affinity),
            *census.repelling(pod),
        )
        spread: list[tuple[SpreadTally, int]] = []
        if relations.spread:
            tallies = census.spread(pod.namespace, relations.spread, pod.constraints)
            for constraint, tally in zip(relations.spread, tallies, strict=True):
                selector = constraint.selector
                own = selector is not None and all_hold(selector, pod.labels)
                spread.append((tally, int(own)))
        mine = {id(together), *(id(tally) for tally, _ in spread)}
        counted = [tally for tally in self._tallies(pod) if id(tally) not in mine]
        groups = tuple(tally for tally in counted if isinstance(tally, Together))
        crowding = tuple(tally for tally in counted if isinstance(tally, SpreadTally))
        if not (together or apart or spread or groups or crowding):
            return None
        itself = all(census.means(term, pod) for term in relations.affinity)
        return Demands(together, itself, apart, tuple(spread), groups, crowding)
