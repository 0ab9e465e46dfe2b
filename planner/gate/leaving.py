"""Slices that nodes have ceased to show, as long as kube-scheduler may not know of it yet.

A pod that loses its gate in that time could be bound to such a slice, and would fail on the node.
"""

from collections import Counter
from collections.abc import Mapping

from mpslice.kube.outage import LINGER, Outages, catching_up, caught_up, is_blind
from mpslice.nodelayout import NodeLayout
from mpslice.slices import SliceSize
from planner.model.nodes import Node

NodeSize = tuple[str, SliceSize]
"""A node and a size of slices that it shows."""


class Leaving:
    """Nodes and sizes of which kube-scheduler may still see a slice more than there is.

    Every time is one of `time.monotonic`. `outages` are times in which nodes could not be
    followed: what goes in an outage, or before kube-scheduler has caught up with it, is kept until
    then. Slices may have come and gone before the planner saw the node again, so what its layouts
    asked for around an outage counts as shown, too.
    """

    def __init__(self) -> None:
        self._gone: dict[NodeSize, float] = {}  # since when
        self._asked: dict[str, Counter[SliceSize]] = {}  # by layouts that came before the newest

    def changed(
        self,
        old: Node | None,
        new: Node | None,
        now: float,
        outages: Outages,
        newest: str = "",
    ) -> None:
        """A node shows other slices than before; `newest` is the `version_tag` of its layout."""
        self._forget(now, outages)
        if old is None:
            return
        shown: Mapping[SliceSize, int] = {} if new is None else new.slices
        if not catching_up(now, outages):
            self._asked.pop(old.name, None)
        before = Counter(old.slices) | self._asked.get(old.name, Counter())
        for size, count in before.items():
            if shown.get(size, 0) < count:
                self._gone[old.name, size] = now
        if new is None or new.applied == newest:
            self._asked.pop(old.name, None)

    def replaced(
        self,
        before: NodeLayout,
        newest: NodeLayout | None,
        node: Node | None,
        now: float,
        outages: Outages,
    ) -> None:
        """`newest` took the place of `before`, which the node may show until it shows the other."""
        seen = newest is None or node is None or node.applied == newest.version_tag
        if newest is None or seen or not catching_up(now, outages):
            self._asked.pop(before.name, None)
            return
        wanted = newest.spec.counts
        asked = self._asked.get(newest.name, Counter()) | before.spec.counts
        self._asked[newest.name] = Counter({s: n for s, n in asked.items() if n > wanted[s]})

    def seen_still(self, now: float, outages: Outages) -> frozenset[NodeSize]:
        """What kube-scheduler may still see."""
        self._forget(now, outages)
        return frozenset(self._gone)

    def due(self, now: float, outages: Outages) -> float | None:
        """When to look again, if nothing happens: kube-scheduler may know more by then."""
        if is_blind(outages):
            return now + LINGER
        dues = [_until(since, outages) for since in self._gone.values()]
        dues += [at for outage in outages if now < (at := caught_up(outage))]
        return min(dues, default=None)

    def _forget(self, now: float, outages: Outages) -> None:
        gone = self._gone.items()
        self._gone = {each: since for each, since in gone if now < _until(since, outages)}


def _until(since: float, outages: Outages) -> float:
    """Until when kube-scheduler may still see what is gone since then."""
    behind = (caught_up(outage) for outage in outages if since >= outage.begun - LINGER)
    return max([since + LINGER, *behind])
