"""The API server's judgement as a table, and counted."""

from collections import Counter
from dataclasses import dataclass, field

from mpslice.kube.errors import Unreachable
from planner.ui.access import READ_LAYOUTS, Reader, Right, list_pods

READER = Reader("system:serviceaccount:team-a:viewer", "1", ("system:authenticated",))
EVERYTHING = frozenset({READ_LAYOUTS, list_pods("")})


@dataclass
class TableOfReviews:
    """`owners` by token, `rights` by the name of the owner; `away` answers nobody."""

    owners: dict[str, Reader] = field(default_factory=dict)
    rights: dict[str, frozenset[Right]] = field(default_factory=dict)
    away: bool = False
    asked: Counter[str] = field(default_factory=Counter)

    async def owner(self, token: str) -> Reader | None:
        self._answers("owner")
        return self.owners.get(token)

    async def may(self, reader: Reader, right: Right) -> bool:
        self._answers("may")
        return right in self.rights.get(reader.name, frozenset())

    def _answers(self, what: str) -> None:
        self.asked[what] += 1
        if self.away:
            raise Unreachable("POST: no answer in time")


def admitting(token: str = "good") -> TableOfReviews:
    """Somebody who may read everything."""
    return TableOfReviews({token: READER}, {READER.name: EVERYTHING})
