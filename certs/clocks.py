"""What time certificates are judged by, where the clocks of replicas differ.

Apart from `rotation`, which believes the time that it is given: a clock that is behind the API
server's is put right by what that one wrote; a clock that is ahead gives way, so that replicas do
not issue against each other without end.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from certs.issue import Pair, facts
from certs.state import State
from mpslice.kube.api import Json

NEVER: Final = datetime.min.replace(tzinfo=UTC)

log = logging.getLogger(__name__)


class SharedTime:
    """Our time, unless what is in the Secret shows that it is another.

    Who issues a certificate and finds it replaced by an earlier one gives way until `truce` is
    over: the other's clock is behind ours, and to the other ours was not valid yet.
    """

    def __init__(self, clock: Callable[[], datetime], truce: timedelta) -> None:
        self._clock = clock
        self._truce = truce
        self._begins = self._issued = NEVER  # of what we issued last
        self._told = False
        self._seen: Pair | None = None

    def issued(self, state: State) -> None:
        """We wrote this state into the Secret; a leaf that was in it before is not of our issue."""
        if state.leaf is not None and state.leaf != self._seen:
            self._begins = facts(state.leaf.certificate).not_before
            self._issued, self._told = self._clock(), False

    def now(self, state: State | None, written: datetime) -> datetime:
        """The time; `state` is the Secret's, `written` when the API server wrote that last."""
        ours = self._clock()
        self._seen = state.leaf if state else None
        if self._seen is not None:
            begins = facts(self._seen.certificate).not_before
            if self._gives_way(begins, ours):
                ours = begins  # so that nothing is due to us by its age
        return max(ours, written)

    def _gives_way(self, begins: datetime, ours: datetime) -> bool:
        if begins >= self._begins or not self._issued <= ours < self._issued + self._truce:
            return False
        if not self._told:
            log.warning(
                "another replica replaced our certificate by an earlier one; set the clocks",
                extra={"ours": str(self._begins), "theirs": str(begins)},
            )
        self._told = True
        return True


def last_written(obj: Json) -> datetime:
    """When an object was written last by the API server's clock, NEVER if it does not say."""
    metadata = obj["metadata"]
    stamps = (
        metadata.get("creationTimestamp"),
        *(entry.get("time") for entry in metadata.get("managedFields") or ()),
    )
    return max((datetime.fromisoformat(stamp) for stamp in stamps if stamp), default=NEVER)
