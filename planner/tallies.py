"""Pods counted by topology domain: what inter-pod affinity and topology spread are decided on.

Every change can be taken back by its opposite, so that the book of a planning pass can be undone.
"""

from collections import Counter
from collections.abc import Mapping


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


class SpreadTally:
    """A tally that also knows its lowest count, empty domains included.

    `domains` are those of eligible nodes only; the domain of another node may be among them.
    """

    __slots__ = ("_counts", "_domains", "_levels", "_lowest")

    def __init__(self, domains: Mapping[str, str]) -> None:
        self._domains = domains
        self._counts = dict.fromkeys(domains.values(), 0)
        self._levels = Counter({0: len(self._counts)})  # how many domains have a count
        self._lowest = 0

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

    def within(self, domain: str) -> int:
        """How many count in the domain."""
        return self._counts.get(domain, 0)

    def lowest(self, min_domains: int) -> int:
        """The fewest in any domain; 0 while there are fewer domains than demanded."""
        return 0 if len(self._counts) < min_domains else self._lowest
