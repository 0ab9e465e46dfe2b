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
    """A time in which the API server could not be followed.

    `ended` is None while it lasts. What comes within two minutes after another is one with it.
    `cut` is set as long as nothing but a watch failed, in which nothing had come for a while: the
    time since when. Proxies end idle connections, kubeadm's example of HAProxy every 35 seconds.
    """

    begun: float
    ended: float | None = None
    cut: float | None = None


def with_start(started: float, newest: Outage | None) -> Outage:
    """The newest outage of a process: at first the time before its start, which it did not see.

    An outage that began soon after the start is one with what was before.
    """
    before = Outage(-math.inf, started)
    if newest is None:
        return before
    if newest.cut is not None:
        return max(before, newest, key=caught_up)
    return newest if newest.begun > started + CALM else replace(before, ended=newest.ended)


def caught_up(outage: Outage) -> float:
    """When kube-scheduler follows the API server again after an outage, at the latest.

    client-go's reflector tries again after 0.8 s, then after twice as long each time up to 30 s,
    and adds up to as much at random (tools/cache/reflector.go, defaultBackoffInit): so it waits for
    at most twice the time that it has failed already, and 1.6 s.
    """
    if outage.ended is None:
        return math.inf
    begun = outage.begun if outage.cut is None else outage.cut
    return outage.ended + LINGER + min(LONGEST, 2 * (outage.ended - begun) + 1.6)


def catching_up(now: float, outage: Outage | None) -> bool:
    """Whether kube-scheduler may not follow the API server yet after the outage."""
    return outage is not None and now < caught_up(outage)
