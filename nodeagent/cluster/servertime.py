"""The API server's wall clock, as far as the objects that it writes tell of it.

A pod's age is what its times in the API are compared with, and these are the API server's. By this
machine's own clock a pod that has just been created might be an hour old, or still to come.
"""

from collections.abc import Callable
from time import monotonic, time


class ServerTime:
    """Never ahead of the API server's clock; this machine's until anything is known of it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ahead: float | None = None  # of the monotonic clock
        self._written = 0.0

    def saw(self, written: float) -> None:
        """A newer version of an object was written then, in Unix time; 0 where that is not known.

        One that was written before the version before it says that the clock has been put back.
        """
        if not written:
            return
        ahead = written - self._clock()
        if self._ahead is None or ahead > self._ahead or written < self._written:
            self._ahead = ahead
        self._written = written

    def now(self) -> float:
        """Unix time."""
        return time() if self._ahead is None else self._clock() + self._ahead
