"""Times without the API server, and when kube-scheduler follows it again. Pure; in seconds of
`time.monotonic`.

kube-scheduler may lose the API server at the same time as mpslice and come back later. Until then
it binds pods by what nodes showed before. Of an outage of kube-scheduler alone, as with an API
server of its own, mpslice knows nothing.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

CALM: Final = 120.0
"""Seconds without a failure after which client-go's reflector begins with short delays again
(tools/cache/reflector.go, defaultBackoffReset)."""

LINGER: Final = 2.0
"""Seconds by which kube-scheduler may see later than mpslice what a node shows."""

LONGEST: Final = 60.0
"""Seconds between two tries of client-go's reflector, at most."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the API server could not be followed; `ended` is None while it lasts.

    `idle`: nothing but a watch failed, in which nothing had come for a while. Proxies end idle
    connections; common settings of HAProxy before API servers do so after 20 to 50 seconds.
    """

    begun: float
    ended: float | None = None
    idle: bool = False


Outages = tuple[Outage, ...]
"""The newest outage of each kind; kube-scheduler may be behind any of them."""


class OutageLog:
    """What one reflector has met of outages.

    A failure within two minutes after an outage is one with it, because client-go's delays go on
    growing. An idle watch that is cut lengthens no other outage, however often that happens; once a
    list fails, too, it was no idle cut.
    """

    def __init__(self) -> None:
        self._failed: Outage | None = None
        self._cut: Outage | None = None

    @property
    def newest(self) -> Outages:
        return tuple(outage for outage in (self._failed, self._cut) if outage is not None)

    def cut(self, now: float) -> None:
        """A watch broke off in which nothing had come for a while."""
        self._cut = Outage(now, idle=True)

    def failed(self, now: float) -> None:
        """A list failed, or a watch in any other way."""
        begun, before = now, self._failed
        if self._cut is not None and self._cut.ended is None:
            begun, self._cut = self._cut.begun, None
        if before is not None and (before.ended is None or begun <= before.ended + CALM):
            begun = before.begun
        self._failed = Outage(begun)

    def unanswered(self, now: float) -> None:
        """Another request was not answered, or with an error of the server's own.

        So an outage that seemed over goes on, for others that follow with less luck. That counts
        for two minutes: a write that always fails is no outage.
        """
        if is_blind(self.newest):
            return
        recent = [outage for outage in self.newest if now <= outage.begun + CALM]
        if recent:
            felt = [outage for outage in self.newest if now < caught_up(outage)]
            begun = min(outage.begun for outage in (*recent, *felt))
            self._failed, self._cut = Outage(begun, now), None

    def followed(self, now: float) -> bool:
        """A list worked; returns whether that ended an outage."""
        lasted = is_blind(self.newest)
        if self._failed is not None and self._failed.ended is None:
            self._failed = replace(self._failed, ended=now)
        if self._cut is not None and self._cut.ended is None:
            self._cut = replace(self._cut, ended=now)
        return lasted


def is_blind(outages: Outages) -> bool:
    """Whether one of them lasts."""
    return any(outage.ended is None for outage in outages)


def with_start(started: float, outages: Outages) -> Outages:
    """Those of a process, with the time before its start, of which it knows nothing.

    A failure soon after the start is one with what was before.
    """
    return (
        Outage(-math.inf, started),
        *(
            outage
            if outage.idle or outage.begun > started + CALM
            else replace(outage, begun=-math.inf)
            for outage in outages
        ),
    )


def caught_up(outage: Outage) -> float:
    """When kube-scheduler follows the API server again after an outage, at the latest.

    client-go's reflector tries again after 0.8 s, then after twice as long each time up to 30 s,
    and adds up to as much at random (tools/cache/reflector.go, defaultBackoffInit): so it waits for
    at most twice the time that it has failed already, and 1.6 s.
    """
    if outage.ended is None:
        return math.inf
    return outage.ended + LINGER + min(LONGEST, 2 * (outage.ended - outage.begun) + 1.6)


def seconds_behind(now: float, outages: Outages) -> float:
    """For how many seconds more kube-scheduler may lag behind: where an outage lasts, if it ended
    now."""
    ended = (replace(o, ended=now) if o.ended is None else o for o in outages)
    return max([0.0, *(caught_up(outage) - now for outage in ended)])


def catching_up(now: float, outages: Outages) -> bool:
    """Whether kube-scheduler may not follow the API server yet after one of the outages."""
    return any(now < caught_up(outage) for outage in outages)
