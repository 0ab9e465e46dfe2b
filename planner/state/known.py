"""What was found out about nodes, kept from one decision to the next.

Of a thousand nodes a few change between two decisions. What a node's state is follows from a few
frozen records alone: where all of them are as they were, so is the answer.
"""

from collections.abc import Callable, Collection
from typing import TypeVarTuple

from planner.model.nodes import NodeState

Facts = TypeVarTuple("Facts")

Judged = tuple[NodeState, str]
"""A node's state, and why it is set aside."""


class KnownNodes:
    """The newest answer for each node, and what it was made from; for one decision at a time."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[tuple[object, ...], Judged]] = {}

    def of(self, name: str, facts: tuple[*Facts], judge: Callable[[*Facts], Judged]) -> Judged:
        """What `judge` says of the facts, which are all that its answer depends on."""
        known = self._answers.get(name)
        # Records that are the same ones are not compared field by field.
        if known is not None and known[0] == facts:
            return known[1]
        answer = judge(*facts)
        self._answers[name] = facts, answer
        return answer

    def forget_others(self, names: Collection[str]) -> None:
        """Only these nodes are left."""
        for name in self._answers.keys() - names:
            del self._answers[name]
