"""A local copy of a list of objects that follows the API server through every fault.

List in pages, watch from the list's version with bookmarks; whatever breaks, list again and treat
the result as a replacement, so that an object deleted meanwhile is seen to go. Each object is
projected as it arrives and the raw JSON dropped.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Generic, NoReturn, TypeVar

from mpslice.kube.api import Json, Kube, Query, Resource, list_pages
from mpslice.kube.errors import Cut, Gone, KubeError
from mpslice.kube.outage import OutageLog, Outages

T = TypeVar("T")

Key = str
"""`namespace/name`, or `name` for what is cluster-scoped."""

_SHORTEST_WATCH: Final = 1.0  # seconds
_IDLE: Final = 10.0  # seconds without an event, after which a proxy may have ended a watch
_WATCH_SECONDS: Final = (300, 600)  # the server ends a watch at a random point in between

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """`old` is None for what is new, `new` is None for what is gone."""

    key: Key
    old: T | None
    new: T | None


@dataclass(slots=True)
class Backoff:
    """Jittered exponential delays in seconds; a server's own Retry-After goes first."""

    first: float = 0.2
    longest: float = 30.0
    _next: float = field(default=0.0, init=False)

    def reset(self) -> None:
        self._next = 0.0

    def delay(self, retry_after: float | None = None) -> float:
        """The seconds to wait now; twice as many the next time."""
        base = self._next or self.first
        self._next = min(self.longest, base * 2)
        # Jitter spreads the replicas of a Deployment, it hides nothing.
        return max(retry_after or 0.0, base * random.uniform(0.5, 1.0))  # noqa: S311


class Reflector(Generic[T]):
    """Keeps `objects` equal to what a list would return, and reports each difference once.

    `project` turns raw JSON into what is kept; None leaves the object out. It must not raise.
    `on_change` is called on the event loop after `objects` has changed, `on_recovery` once they are
    followed again after an outage; they must not block or raise.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        project: Callable[[Json], T | None],
        on_change: Callable[[Change[T]], None],
        *,
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        backoff: Backoff | None = None,
        on_recovery: Callable[[], None] = lambda: None,
    ) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self._kube = kube
        self._project = project
        self._on_change = on_change
        self._on_recovery = on_recovery
        self._namespace = namespace
        selectors = {"fieldSelector": field_selector, "labelSelector": label_selector}
        self._selectors: Query = {key: value for key, value in selectors.items() if value}
        self._backoff = backoff or Backoff()
        self._gone_in_a_row = False
        self._heard = 0.0  # when the watch last told something, or was begun
        self._outages = OutageLog()
        self._objects: dict[Key, T] = {}
        self.objects: Mapping[Key, T] = MappingProxyType(self._objects)

    async def run(self) -> NoReturn:
        """Follows until cancelled; `synced` is set after the first complete list."""
        version = ""
        while True:
            try:
                version = version or await self._list()
                started = time.monotonic()
                version = await self._watch(version)
                if time.monotonic() - started < _SHORTEST_WATCH:
                    # A server or proxy that ends every watch at once must not be hammered.
                    await asyncio.sleep(self._backoff.delay())
            except Gone:
                version = ""
                if self._gone_in_a_row:  # the list itself seems to be too old, again and again
                    await asyncio.sleep(self._backoff.delay())
                self._gone_in_a_row = True
            except KubeError as error:
                self._lost(error, time.monotonic())
                delay = self._backoff.delay(error.retry_after)
                log.warning(
                    "following failed, trying again",
                    extra={
                        "resource": self.resource.plural,
                        "error": str(error),
                        "delay_seconds": round(delay, 2),
                    },
                )
                # A new list is the only answer that is right after every kind of fault.
                version = ""
                await asyncio.sleep(delay)

    @property
    def outages(self) -> Outages:
        """Times in which the API server could not be followed, the newest of each kind."""
        return self._outages.newest

    def unanswered(self, now: float) -> None:
        """Another request was not answered, or with an error of the server's own (monotonic)."""
        self._outages.unanswered(now)

    def _lost(self, error: KubeError, now: float) -> None:
        if isinstance(error, Cut) and now - self._heard >= _IDLE:
            self._backoff.reset()  # it had worked until then
            self._outages.cut(now)
        else:
            self._outages.failed(now)

    async def _list(self) -> str:
        listed: dict[Key, T] = {}
        version = ""
        pages = list_pages(
            self._kube, self.resource, namespace=self._namespace, query=self._selectors
        )
        async for page in pages:
            version = str((page.get("metadata") or {}).get("resourceVersion") or "")
            for item in page.get("items") or ():
                projected = self._project(item)
                if projected is not None:
                    listed[key_of(item)] = projected
            del page  # before the next one comes
            await asyncio.sleep(0)  # decoding a page takes tens of milliseconds; let others run
        recovered = self._outages.followed(time.monotonic())
        self._replace(listed)
        self.synced.set()
        if recovered:
            self._on_recovery()
        return version

    def _replace(self, listed: Mapping[Key, T]) -> None:
        for key in [key for key in self._objects if key not in listed]:
            self._put(key, None)
        for key, projected in listed.items():
            self._put(key, projected)

    async def _watch(self, version: str) -> str:
        query = {
            **self._selectors,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311
        }
        self._heard = time.monotonic()
        events = self._kube.watch(self.resource, namespace=self._namespace, query=query)
        async for event in events:
            self._heard = time.monotonic()
            obj = event["object"]
            version = str(obj["metadata"]["resourceVersion"])
            if event["type"] != "BOOKMARK":
                gone = event["type"] == "DELETED"
                self._put(key_of(obj), None if gone else self._project(obj))
            self._backoff.reset()
            self._gone_in_a_row = False
        return version

    def _put(self, key: Key, new: T | None) -> None:
        old = self._objects.get(key)
        if old is None and new is None:
            return
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        if old != new:
            self._on_change(Change(key, old, new))


def key_of(obj: Json) -> Key:
    """`namespace/name` of an object, or its name when it is cluster-scoped."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
