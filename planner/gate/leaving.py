"""Slices that nodes have ceased to show, as long as kube-scheduler may not know of it yet.

A pod that loses its gate in that time could be bound to such a slice, and would fail on the node.
"""

import math
from collections.abc import Mapping
from typing import Final

from mpslice.kube.reflector import Outage
from mpslice.slices import SliceSize
from planner.model.nodes import Node

Seat = tuple[str, SliceSize]
"""A node and a size."""

LINGER: Final = 2.0
"""Seconds by which kube-scheduler may see later than the planner that a node has a slice less."""

_LONGEST: Final = 60.0  # seconds between two tries of client-go's reflector, at most


def caught_up(outage: Outage) -> float:
    """When kube-scheduler follows the API server again after an outage, at the latest.

    client-go's reflector tries again after 0.8 s, then after twice as long each time up to 30 s,
    and adds up to as much at random (tools/cache/reflector.go, defaultBackoffInit): so it waits for
    at most twice the time that it has failed already, and 1.6 s.
    """
    if outage.ended is None:
        return math.inf
    return outage.ended + LINGER + min(_LONGEST, 2 * (outage.ended - outage.begun) + 1.6)


class Leaving:
    """Nodes and sizes of which kube-scheduler may still see a slice more than there is.

    Every time is one of `time.monotonic`. `outage` is the newest time in which nodes could not be
    followed: what goes in an outage, or before kube-scheduler has caught up with it, is kept until
    then.
    """

    def __init__(self) -> None:
        self._until: dict[Seat, float] = {}
        self._caught_up = -math.inf  # after every outage that has ended
        self._ended: Outage | None = None

    def changed(
        self, old: Node | None, new: Node | None, now: float, outage: Outage | None
    ) -> None:
        """A node shows other slices than before."""
        self._forget(now, outage)
        if old is None:
            return
        shown: Mapping[SliceSize, int] = {} if new is None else new.slices
        for size, count in old.slices.items():
            if shown.get(size, 0) < count:
                self._until[old.name, size] = max(now + LINGER, self._caught_up)

    def seats(self, now: float, outage: Outage | None) -> frozenset[Seat]:
        """What kube-scheduler may still see."""
        self._forget(now, outage)
        return frozenset(self._until)

    def catching_up(self, now: float, outage: Outage | None) -> bool:
        """Whether kube-scheduler may not follow the API server yet after an outage."""
        self._hear_of(outage)
        return _lasts(outage) or now < self._caught_up

    def due(self, now: float, outage: Outage | None) -> float | None:
        """When to look again, if nothing happens: `seats` may be fewer then, or kube-scheduler have
        caught up."""
        if _lasts(outage):
            return now + LINGER
        dues = [*self._until.values(), *([self._caught_up] if now < self._caught_up else [])]
        return min(dues, default=None)

    def _forget(self, now: float, outage: Outage | None) -> None:
        self._hear_of(outage)
        if self._until and not _lasts(outage):
            self._until = {seat: until for seat, until in self._until.items() if until > now}

    def _hear_of(self, outage: Outage | None) -> None:
        """What an outage has kept from being seen is seen once it has ended."""
        if outage is None or outage.ended is None or outage == self._ended:
            return
        self._ended = outage
        self._caught_up = max(self._caught_up, caught_up(outage))
        self._until = {seat: max(until, self._caught_up) for seat, until in self._until.items()}


def _lasts(outage: Outage | None) -> bool:
    return outage is not None and outage.ended is None
