"""Which pods are planned now and which wait for the rest of their burst. Pure; time is passed in.

A lone pod must not wait; a Deployment of a hundred is packed better, and written in fewer steps,
when it is planned together; of a group nobody knows how many there are before they have come. Pods
that do not cease to come are no burst: to wait long for more of them makes each wait, and packs
little better.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Batch:
    """Holds back the pods of a burst until it was idle for `idle`, at most for `longest` (seconds).

    A pod is alone when no other pod that came less than `idle` ago is still pending. What goes on
    for longer than `longest` is a stream: it is planned four times as often, except while a pod of
    a group is held, which could be torn apart.
    """

    idle: float
    longest: float
    _recent: OrderedDict[str, float] = field(default_factory=OrderedDict)  # oldest first
    _held: set[str] = field(default_factory=set)
    _opened: float = 0.0
    _last: float = -math.inf  # when the newest pod came, held or not
    _unbroken: float = 0.0  # since when there was no pause of a quarter of `longest`
    _has_group: bool = False  # among what is held

    @property
    def held(self) -> frozenset[str]:
        """The pods that are not to be planned yet."""
        return frozenset(self._held)

    def holds(self, key: str) -> bool:
        """Whether the pod is among `held`, which is copied at every asking."""
        return key in self._held

    def arrive(self, key: str, now: float, *, grouped: bool = False) -> None:
        """A pod became pending; one of a group is never taken to be alone."""
        self._forget_older(now)
        if now >= self._last + self.longest / 4:
            self._unbroken = now
        self._last = now
        alone = not self._recent and not self._held and not grouped
        self._recent[key] = now
        self._recent.move_to_end(key)
        if alone or self.idle <= 0:
            return
        if not self._held:
            self._opened, self._has_group = now, False
        self._held.add(key)
        self._has_group |= grouped

    def leave(self, key: str) -> None:
        """A pod is pending no more: bound, deleted or finished."""
        self._recent.pop(key, None)
        self._held.discard(key)

    def due(self) -> float | None:
        """The time at which the batch is complete, on the clock of `arrive`; None for no batch."""
        if not self._held:
            return None
        lasted = self._opened - self._unbroken
        is_stream = lasted >= max(self.longest - self.idle, self.longest / 2)
        longest = self.longest / 4 if is_stream and not self._has_group else self.longest
        return min(self._last + self.idle, self._opened + longest)

    def release(self) -> None:
        """The batch is complete: everything held is planned from now on."""
        self._held.clear()

    def _forget_older(self, now: float) -> None:
        while self._recent:
            key = next(iter(self._recent))
            if now - self._recent[key] < self.idle:
                return
            del self._recent[key]
