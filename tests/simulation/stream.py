"""A cluster of a run in which pods come and go; each is deleted soon after it has ended."""

import asyncio
from typing import Final

from mpslice.kube.api import EVENTS, PODS, Json
from tests.api.model import Entry
from tests.simulation.run import Run

_KEPT: Final = 1.0  # seconds until a pod that has ended is deleted
_COMPACTED_EACH: Final = 100  # lives; etcd's history ends every five minutes


class Stream(Run):
    """`ended` counts the pods that have been deleted. What the API has no use for goes, too."""

    ended = 0

    def _changed(self, plural: str, entry: Entry) -> None:
        super()._changed(plural, entry)
        if plural != PODS.plural or entry.old is None or entry.new is None:
            return
        if not _has_ended(entry.old) and _has_ended(entry.new):
            asyncio.get_running_loop().call_later(_KEPT, self._delete, entry.name)

    def _delete(self, name: tuple[str, str]) -> None:
        self.api.remove(PODS, name[1], name[0])
        self.ended += 1
        if self.ended % _COMPACTED_EACH == 0:
            for event in self.api.all(EVENTS):  # which live an hour
                metadata = event["metadata"]
                self.api.remove(EVENTS, metadata["name"], metadata["namespace"])
            self.api.compact()


def _has_ended(pod: Json) -> bool:
    return bool(pod["status"].get("phase") == "Succeeded")
