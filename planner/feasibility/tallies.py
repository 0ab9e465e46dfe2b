"""Pods counted by topology domain: what inter-pod affinity and topology spread are decided on.

Every change can be taken back by its opposite, so that the book of a planning pass can be undone.
"""

from collections import Counter
from collections.abc import Mapping

from planner.model import Spread


class Tally:
    """How many pods count in each domain of one topology key.

    `domains` says which domain a node belongs to; nodes that are not in it count nowhere.
    """

    __slots__ = ("_counts", "_domains")

    def __init__(self, domains: Mapping[str, str]) -> None:
        self._domains = domains
        self._counts: Counter[str] = Counter()

    def change(self, node: str, by: int) -> None:
        """Counts pods on the node in, or out with a negative number."""
        domain = self._domains.get(node)
        if domain is not None:
            self._counts[domain] += by
            if not self._counts[domain]:
                del self._counts[domain]

    def covers(self, node: str) -> bool:
        """Whether the node belongs to a domain at all."""
        return node in self._domains

    def near(self, node: str) -> int:
        """How many count in the node's own domain."""
        domain = self._domains.get(node)
        return 0 if domain is None else self._counts[domain]

    @property
    def is_empty(self) -> bool:
        return not self._counts


class Together:
    """The pods that satisfy all affinity terms of somebody, with a tally for each term's topology.

    `leaners` of the pass have these terms and satisfy them too: the first of them may start
    anywhere, but only as long as there is nobody else (satisfyPodAffinity). `dependants` are
    members that have other terms, which nobody can count on to be bound first.
    """

    __slots__ = ("_anybody", "_dependants", "_leaners", "_members", "_tallies")

    def __init__(self, tallies: tuple[Tally, ...]) -> None:
        self._tallies = tallies
        self._anybody = False
        self._members = 0
        self._leaners = 0
        self._dependants = 0

    def change(self, node: str, by: int) -> None:
        """Counts pods on the node in, or out with a negative number."""
        self._members += by if self._counts(node) else 0
        for tally in self._tallies:
            tally.change(node, by)

    def begin(self) -> None:
        """All who are bound have been counted; whoever comes now is of the pass."""
        self._anybody = self._members > 0

    def lean(self, node: str, by: int) -> None:
        """Notes a pod placed there that has these terms and satisfies them itself."""
        self._leaners += by if self._counts(node) else 0

    def depend(self, node: str, by: int) -> None:
        """Notes a pod placed there that satisfies these terms, and has others of its own."""
        self._dependants += by if self._counts(node) else 0

    def admits(self, node: str, *, itself: bool) -> bool:
        """Whether a pod with the terms may go there; `itself`: it satisfies them."""
        if not all(tally.covers(node) for tally in self._tallies):
            return False
        return self._is_near(node) or (itself and all(tally.is_empty for tally in self._tallies))

    def is_deserted_by(self, node: str) -> bool:
        """Whether a member there would be the first elsewhere, and keep out those who are placed
        near one another and of whom nobody is bound yet.
        """
        if self._anybody or not self._leaners or not self._counts(node):
            return False
        alone = self._leaners + self._dependants == self._members
        return alone and not self._is_near(node)

    def _counts(self, node: str) -> bool:
        """Whether a member there is one for anybody: the node is in a domain of some term."""
        return any(tally.covers(node) for tally in self._tallies)

    def _is_near(self, node: str) -> bool:
        return all(tally.near(node) for tally in self._tallies)


class SpreadTally:
    """A tally for one spread constraint: it also knows its lowest count, empty domains included.

    `domains` are those of eligible nodes only; the domain of another node may be among them.
    """

    __slots__ = ("_counts", "_domains", "_guards", "_levels", "_lowest", "_spread")

    def __init__(self, spread: Spread, domains: Mapping[str, str]) -> None:
        self._spread = spread
        self._domains = domains
        self._counts = dict.fromkeys(domains.values(), 0)
        self._levels = Counter({0: len(self._counts)})  # how many domains have a count
        self._lowest = 0
        self._guards: Counter[str] = Counter()

    def change(self, node: str, by: int) -> None:
        """Counts pods on the node in, or out with a negative number."""
        domain = self._domains.get(node)
        if domain is None:
            return
        old = self._counts[domain]
        new = self._counts[domain] = old + by
        self._levels[old] -= 1
        self._levels[new] += 1
        if new < self._lowest:
            self._lowest = new
        while not self._levels[self._lowest]:
            self._lowest += 1

    def guard(self, node: str, by: int) -> None:
        """Notes that a pod with this constraint is placed there and not bound yet."""
        domain = self._domains.get(node)
        if domain is not None:
            self._guards[domain] += by

    def allows(self, labels: Mapping[str, str], own: int) -> bool:
        """Whether a pod with the constraint may go to a node with these labels.

        `own` is 1 if the constraint counts the pod itself.
        """
        domain = labels.get(self._spread.topology_key)
        return domain is not None and not self._exceeds(domain, own)

    def is_full(self, node: str) -> bool:
        """Whether one more pod there would keep those out that are placed with the constraint."""
        domain = self._domains.get(node)
        return domain is not None and bool(self._guards[domain]) and self._exceeds(domain, 1)

    def _exceeds(self, domain: str, more: int) -> bool:
        """Fewer domains than demanded make the emptiest count as empty."""
        few = len(self._counts) < self._spread.min_domains
        lowest = 0 if few else self._lowest
        return self._counts.get(domain, 0) + more - lowest > self._spread.max_skew
