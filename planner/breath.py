"""How long the planner rests between decisions, so that its writes and all else get their turn.

Pure; time is passed in, in seconds on any steady clock.
"""

from dataclasses import dataclass
from typing import Final

LONGEST: Final = 1.0  # seconds
_WORTH_IT: Final = 0.02  # seconds
_LONG: Final = 0.1  # seconds; after such a decision the next is made beside the event loop


@dataclass(slots=True)
class Breath:
    """As long as the decisions took since the last rest, at most LONGEST, from their end on.

    There is none before that is worth it: the decisions for a lone pod take a millisecond each, and
    what one of them would rest is what the pod waits. `is_long` says whether the next one may take
    long, too.
    """

    is_long: bool = False
    _until: float = 0.0

    def decided(self, started: float, ended: float) -> None:
        """A decision was made."""
        took = ended - started
        self.is_long = took > _LONG
        self._until = ended + min(took + max(0.0, self._until - started), LONGEST)

    def left(self, now: float) -> float:
        """The seconds of rest that are left."""
        left = self._until - now
        return left if left > _WORTH_IT else 0.0
