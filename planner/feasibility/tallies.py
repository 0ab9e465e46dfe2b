"""Pods counted by topology domain: what inter-pod affinity and topology spread are decided on.

Every change can be taken back by its opposite, so that the book of a planning pass can be undone.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from planner.model.constraints import Spread

Listener = Callable[[str | None], None]
"""Told the domain in which something changed, or None where more may have changed."""


class Observed:
    """Something that answers may depend on: `version` rises with each change, and listeners are
    told where it was."""

    __slots__ = ("listeners", "version")

    def __init__(self) -> None:
        self.version = 0
        self.listeners: list[Listener] = []

    def _tell(self, domain: str | None) -> None:
        self.version += 1
        for listener in self.listeners:
            listener(domain)


class Tally(Observed):
    """How many pods count in each domain of one topology key.

    `domains` says which domain a node belongs to; nodes that are not in it count nowhere.
    """

    __slots__ = ("_counts", "_domains")

    def __init__(self, domains: Mapping[str, str]) -> None:
        super().__init__()
        self._domains = domains
        self._counts: Counter[str] = Counter()

    def change(self, node: str, by: int) -> None:
        """Counts pods on the node in, or out with a negative number."""
        domain = self._domains.get(node)
        if domain is not None:
            self._counts[domain] += by
            if not self._counts[domain]:
                del self._counts[domain]
            self._tell(domain if self._counts else None)

    def domain(self, node: str) -> str | None:
        """The node's domain, if it belongs to one."""
        return self._domains.get(node)

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


class Together(Observed):
    """The pods that satisfy all affinity terms of somebody, with a tally for each term's topology.

    `leaners` of the pass have these terms and satisfy them too: the first of them may start
    anywhere, but only as long as there is nobody else (satisfyPodAffinity). `dependants` are
    members that have other terms, which nobody can count on to be bound first.
    """

    __slots__ = ("_anybody", "_dependants", "_leaners", "_members", "tallies")

    def __init__(self, tallies: tuple[Tally, ...]) -> None:
        super().__init__()
        self.tallies = tallies
        self._anybody = False
        self._members = 0
        self._leaners = 0
        self._dependants = 0

    def change(self, node: str, by: int) -> None:
        """Counts pods on the node in, or out with a negative number."""
        if self._counts(node):
            self._members += by
            self._tell(None)
        for tally in self.tallies:
            tally.change(node, by)

    def begin(self) -> None:
        """All who are bound have been counted; whoever comes now is of the pass."""
        self._anybody = self._members > 0

    def lean(self, node: str, by: int) -> None:
        """Notes a pod placed there that has these terms and satisfies them itself."""
        if self._counts(node):
            self._leaners += by
            self._tell(None)

    def depend(self, node: str, by: int) -> None:
        """Notes a pod placed there that satisfies these terms, and has others of its own."""
        if self._counts(node):
            self._dependants += by
            self._tell(None)

    def admits(self, node: str, *, itself: bool) -> bool:
        """Whether a pod with the terms may go there; `itself`: it satisfies them."""
        if not all(tally.covers(node) for tally in self.tallies):
            return False
        return self._is_near(node) or (itself and all(tally.is_empty for tally in self.tallies))

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
        return any(tally.covers(node) for tally in self.tallies)

    def _is_near(self, node: str) -> bool:
        return all(tally.near(node) for tally in self.tallies)


class SpreadTally(Observed):
    """A tally for one spread constraint: it also knows its lowest count, empty domains included.

    `domains` are those of eligible nodes only; the domain of another node may be among them.
    """

    __slots__ = ("_counts", "_domains", "_guards", "_levels", "_lowest", "_spread")

    def __init__(self, spread: Spread, domains: Mapping[str, str]) -> None:
        super().__init__()
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
        lowest = self._lowest
        if new < lowest:
            self._lowest = new
        while not self._levels[self._lowest]:
            self._lowest += 1
        self._tell(domain if self._lowest == lowest else None)

    def domain(self, node: str) -> str | None:
        """The node's domain, if it is eligible."""
        return self._domains.get(node)

    @property
    def key(self) -> str:
        """The label that makes domains."""
        return self._spread.topology_key

    def guard(self, node: str, by: int) -> None:
        """Notes that a pod with this constraint is placed there and not bound yet."""
        domain = self._domains.get(node)
        if domain is not None:
            self._guards[domain] += by
            self._tell(domain)

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
