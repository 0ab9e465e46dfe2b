"""Kubernetes Events: recorded without waiting, deduplicated, and never the reason that work stops.

The same (object, reason, message) raises the count of one Event instead of making another, as
client-go's correlator does, so that `kubectl describe` stays readable.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NoReturn

from mpslice.kube.api import EVENTS, Json, Kube, PatchType
from mpslice.kube.errors import ApiError, Conflict, KubeError, NotFound, Unreachable

_WAITING: Final = 1024  # events not yet written; more are left out
_LATER: Final = 0.15  # seconds: what an Event tells of goes on first, undisturbed
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts, unless it names others
_LONGEST: Final = 30.0  # seconds: more than that is not waited for, whatever the API server says
_REMEMBERED: Final = 4096
_MESSAGE: Final = 1024  # bytes that the API server accepts in `message`

log = logging.getLogger(__name__)


class EventType(StrEnum):
    """Kubernetes knows just these two."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """What an Event is about."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class _Note:
    about: ObjectRef
    type: EventType
    reason: str
    message: str
    at: str
    due: float  # on the event loop's clock

    def event_name(self) -> str:
        about = self.about
        identity = "\0".join((about.kind, about.uid, self.type, self.reason, self.message))
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return f"{about.name[:200].rstrip('-.')}.{digest}"


class EventRecorder:
    """Writes Events in the background; `run` must be running for anything to be written."""

    def __init__(self, kube: Kube, component: str, *, host: str = "") -> None:
        self._kube = kube
        self._source = {"component": component, **({"host": host} if host else {})}
        self._queue: asyncio.Queue[_Note] = asyncio.Queue(_WAITING)
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._overflowed = False

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> bool:
        """Queues an Event; `reason` is CamelCase, `message` one sentence for a person.

        False when too many are waiting to be written already: say it again later.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            due = asyncio.get_running_loop().time() + _LATER
            self._queue.put_nowait(_Note(about, type, reason, message[:_MESSAGE], now, due))
        except asyncio.QueueFull:
            if not self._overflowed:
                log.warning("too many Events wait to be written, some are left out")
            self._overflowed = True
            return False
        self._overflowed = False
        return True

    async def run(self) -> NoReturn:
        """Writes what was recorded, until cancelled."""
        while True:
            note = await self._queue.get()
            await asyncio.sleep(note.due - asyncio.get_running_loop().time())
            try:
                await self._write_patiently(note)
            except KubeError as error:
                log.warning(
                    "an Event could not be written",
                    extra={"object": note.about.name, "reason": note.reason, "error": str(error)},
                )

    async def _write_patiently(self, note: _Note) -> None:
        """Outlives a short trouble of the API server; those behind would fare no better."""
        for pause in _PAUSES:
            try:
                await self._write(note)
            except KubeError as error:
                if not _is_passing(error):
                    raise
                await asyncio.sleep(min(max(pause, error.retry_after or 0.0), _LONGEST))
            else:
                return
        await self._write(note)

    async def _write(self, note: _Note) -> None:
        namespace = note.about.namespace or "default"  # where cluster-scoped objects' Events live
        name = note.event_name()
        count = self._counts.get((namespace, name), 0) + 1
        try:
            if count > 1:
                await self._recount(note, namespace, name, count)
            else:
                await self._kube.create(
                    EVENTS, self._body(note, namespace, name), namespace=namespace
                )
        except NotFound:  # it has expired since
            count = 1
            await self._kube.create(EVENTS, self._body(note, namespace, name), namespace=namespace)
        except Conflict:  # an earlier process wrote it
            count = await self._take_over(note, namespace, name)
        self._counts[namespace, name] = count
        self._counts.move_to_end((namespace, name))
        while len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)

    async def _take_over(self, note: _Note, namespace: str, name: str) -> int:
        existing = await self._kube.read(EVENTS, name, namespace=namespace)
        count = int(existing.get("count") or 0) + 1
        await self._recount(note, namespace, name, count)
        return count

    async def _recount(self, note: _Note, namespace: str, name: str, count: int) -> None:
        await self._kube.patch(
            EVENTS,
            name,
            {"count": count, "lastTimestamp": note.at},
            type=PatchType.MERGE,
            namespace=namespace,
        )

    def _body(self, note: _Note, namespace: str, name: str) -> Json:
        about = note.about
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "name": about.name,
                "uid": about.uid,
                **({"namespace": about.namespace} if about.namespace else {}),
            },
            "type": str(note.type),
            "reason": note.reason,
            "message": note.message,
            "count": 1,
            "firstTimestamp": note.at,
            "lastTimestamp": note.at,
            "source": self._source,
            "reportingComponent": self._source["component"],
        }


def _is_passing(error: KubeError) -> bool:
    """Whether the same write may work in a moment: a token is renewed, a queue there is shorter."""
    if isinstance(error, ApiError):
        return error.status in (401, 429) or error.status >= 500
    return isinstance(error, Unreachable)
