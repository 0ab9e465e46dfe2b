"""How long the planner rests between decisions, so that its writes and all else get their turn.

Pure; time is passed in, in seconds on any steady clock.
"""

from dataclasses import dataclass
from typing import Final

LONGEST: Final = 1.0  # seconds
_WORTH_IT: Final = 0.02  # seconds
_LONG: Final = 0.1  # seconds; after such a decision the next is made beside the event loop

SHORT: Final = 0.05
"""Seconds: decisions of a few hundred nodes. How many of them there are follows from what happens;
longer ones are paid for from a credit, or a large cluster would keep half a core busy all day."""

CREDIT: Final = 3.0  # seconds of long decisions at most
SHARE: Final = 0.05  # what comes in by itself, in seconds of decisions a second
CHANGE: Final = 0.002
"""Seconds that each change adds to the credit: a burst of pods is not to wait for it."""


@dataclass(slots=True)
class Breath:
    """As long as the decisions took since the last rest, at most LONGEST, from their end on.

    There is none before that is worth it: the decisions for a lone pod take a millisecond each, and
    what one of them would rest is what the pod waits. Once the credit of long decisions is used up,
    each rest is LONGEST. `is_long` says whether the next one may take long, too.
    """

    is_long: bool = False
    _until: float = 0.0
    _credit: float = CREDIT
    _counted: float | None = None  # until when the credit is counted

    def changed(self) -> None:
        """Something happened that is to be decided on."""
        self._credit = min(CREDIT, self._credit + CHANGE)

    def decided(self, started: float, ended: float) -> None:
        """A decision was made."""
        took = ended - started
        self.is_long = took > _LONG
        rest = took + max(0.0, self._until - started)
        since = started if self._counted is None else self._counted
        self._credit = min(CREDIT, self._credit + SHARE * (ended - since))
        self._counted = ended
        if took > SHORT:
            self._credit = max(0.0, self._credit - took)
            if not self._credit:
                rest = LONGEST
        self._until = ended + min(rest, LONGEST)

    def left(self, now: float) -> float:
        """The seconds of rest that are left."""
        left = self._until - now
        return left if left > _WORTH_IT else 0.0
