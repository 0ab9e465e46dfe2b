"""Which nodes a pod may use by their identity, found once for all pods that demand the same.

Nodes that are alike in all that the pods ask about are judged by one of them.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mpslice.slices import GB_RESOURCE
from planner.feasibility.nodes import (
    asks_for_names,
    label_keys,
    names_listed,
    node_refusal,
    untolerated,
)
from planner.model.constraints import Constraints
from planner.model.nodes import Node
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.packing.books import NodeBook

_NAMED = 2  # so many taints or labels are named
_MANY = 64  # labels that pods ask about


@dataclass(slots=True)
class Tally:
    """How many nodes fail for which cause, and what decides it."""

    causes: Counter[Cause] = field(default_factory=Counter)
    decisive: dict[Cause, dict[str, None]] = field(default_factory=dict)

    def add(self, cause: Cause, nodes: int, detail: str = "") -> None:
        self.causes[cause] += nodes
        if detail:
            self.decisive.setdefault(cause, {})[detail] = None

    def copy(self) -> "Tally":
        return Tally(self.causes.copy(), {c: dict(texts) for c, texts in self.decisive.items()})

    def details(self) -> Iterator[tuple[Cause, str]]:
        """What to tell of each cause that has something to tell, in order."""
        for cause in Cause:
            texts = sorted(self.decisive.get(cause, ()))
            if texts:
                more = f", {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
                yield cause, ", ".join(texts[:_NAMED]) + more


class Reach:
    """The nodes that each set of constraints allows."""

    def __init__(self, nodes: Sequence[NodeBook], pods: Iterable[Pod]) -> None:
        pods = list(pods)
        keys = sorted(_known_there(label_keys(pods), nodes))
        alike: dict[object, list[NodeBook]] = {}
        self.by_name = {node.name: node for node in nodes}
        self._known: dict[Constraints, tuple[Hashable, list[NodeBook]]] = {}
        self._tallies: dict[Constraints, Tally] = {}
        for book in nodes:
            node = book.state.node
            labels = tuple([node.labels.get(key) for key in keys])
            signature = (labels, node.taints, node.unschedulable, node.ready, node.offers_gb)
            alike.setdefault(signature, []).append(book)
        self._groups = list(alike.values())
        self._labelled: dict[str, dict[str | None, list[int]]] = {}  # groups by label

    def of(self, constraints: Constraints) -> tuple[Hashable, list[NodeBook]]:
        """The nodes in order, and a key that is equal where the nodes are."""
        known = self._known.get(constraints)
        if known is None:
            known = self._known[constraints] = self._find(constraints)
        return known

    def _find(self, constraints: Constraints) -> tuple[Hashable, list[NodeBook]]:
        if asks_for_names(constraints):
            names = names_listed(constraints)
            some = self.by_name.keys() if names is None else names & self.by_name.keys()
            nodes = (self.by_name[name] for name in sorted(some))
            found = [node for node in nodes if node_refusal(constraints, node.state.node) is None]
            return tuple(node.order for node in found), found
        samples = self._selected(constraints)
        groups = [n for n in samples if node_refusal(constraints, samples[n].state.node) is None]
        nodes = (node for group in groups for node in self._groups[group])
        return ("alike", *groups), sorted(nodes, key=lambda node: node.order)

    def _selected(self, constraints: Constraints) -> dict[int, NodeBook]:
        """By number, a node of each group with the first label that the pod's selector wants."""
        numbers: Iterable[int] = range(len(self._groups))
        if constraints.node_selector:
            key, value = constraints.node_selector[0]
            if key not in self._labelled:
                self._labelled[key] = {}
                for number, (first, *_) in enumerate(self._groups):
                    label = first.state.node.labels.get(key)
                    self._labelled[key].setdefault(label, []).append(number)
            numbers = self._labelled[key].get(value, ())
        return {number: self._groups[number][0] for number in numbers}

    def tally(self, constraints: Constraints) -> Tally:
        """The nodes that are out of reach, and why; one without GPUs has no agent yet."""
        known = self._tallies.get(constraints)
        if known is None:
            known = self._tallies[constraints] = self._count(constraints)
        return known.copy()

    def _count(self, constraints: Constraints) -> Tally:
        tally = Tally()
        each = asks_for_names(constraints)
        for alike in self._groups:
            equipped = [node for node in alike if node.gpus]
            if len(alike) > len(equipped):
                tally.add(Cause.NOT_READY, len(alike) - len(equipped))
            for book in equipped if each else equipped[:1]:
                node = book.state.node
                cause = node_refusal(constraints, node)
                if cause is not None:
                    nodes = 1 if each else len(equipped)
                    tally.add(cause, nodes, _decisive(cause, constraints, node))
        return tally


def _known_there(keys: frozenset[str], nodes: Iterable[NodeBook]) -> frozenset[str]:
    """Of many labels those that a node has: the creators of pods may ask for any number."""
    if len(keys) <= _MANY:
        return keys
    return keys.intersection(key for node in nodes for key in node.state.node.labels)


def _decisive(cause: Cause, constraints: Constraints, node: Node) -> str:
    """What of the node or of the constraints decides it, as `kubectl` writes it."""
    if cause is Cause.TAINT and (taint := untolerated(constraints, node)):
        value = f"={taint.value}" if taint.value else ""
        return f"{taint.key}{value}:{taint.effect}"
    if cause is Cause.NODE_AFFINITY:
        wanted = (pair for pair in constraints.node_selector if node.labels.get(pair[0]) != pair[1])
        return next((f"wants {key}={value}" for key, value in wanted), "")
    if cause is Cause.EXTENDED_RESOURCE:
        return f"{GB_RESOURCE} is not offered there yet"
    return ""
