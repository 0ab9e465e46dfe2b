"""How long the planner rests between decisions, so that its writes and all else get their turn.

Pure; time is passed in, in seconds on any steady clock.
"""

from dataclasses import dataclass
from typing import Final

LONGEST: Final = 1.0  # seconds
_LONG: Final = 0.1  # seconds; after such a decision the next is made beside the event loop


@dataclass(slots=True)
class Breath:
    """As long as the last decision took, at most LONGEST, from its end on.

    `is_long` says whether the next one may take long, too.
    """

    is_long: bool = False
    _until: float = 0.0

    def decided(self, started: float, ended: float) -> None:
        """A decision was made."""
        took = ended - started
        self.is_long = took > _LONG
        self._until = ended + min(took, LONGEST)

    def left(self, now: float) -> float:
        """The seconds of rest that are left."""
        return max(0.0, self._until - now)
