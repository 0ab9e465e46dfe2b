"""An API server whose lists and watches a test fills by hand, for what the real one cannot be made
to do: to send two watches in a certain order, or never to rest.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from mpslice.kube.api import Json, PatchType, Query, Resource


class Memory:
    """`items` are what is there at first, by plural; `seen` what was patched, in order."""

    def __init__(self, **items: list[Json]) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self._items = items
        self._by_name = {
            plural: {item["metadata"]["name"]: item for item in listed}
            for plural, listed in items.items()
        }
        self._events: defaultdict[str, asyncio.Queue[Json]] = defaultdict(asyncio.Queue)
        self.version = 1

    def stamped(self, obj: Json) -> Json:
        """The object as a newer version."""
        self.version += 1
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}

    def show(self, resource: Resource, obj: Json, kind: str = "ADDED") -> None:
        """Sends the object to whoever watches its kind."""
        self._events[resource.plural].put_nowait({"type": kind, "object": self.stamped(obj)})

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        return {"metadata": {"resourceVersion": "1"}, "items": self._items.get(resource.plural, [])}

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        while True:
            yield await self._events[resource.plural].get()

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        *,
        type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        self.seen.append((name, subresource))
        return self.stamped(self._by_name[resource.plural][name])

    async def create(self, resource: Resource, body: Json, *, namespace: str | None = None) -> Json:
        return self.stamped(body)

    async def read(self, *_: Any, **__: Any) -> Json:
        raise NotImplementedError("the planner reads nothing but lists and watches")

    async def replace(self, *_: Any, **__: Any) -> Json:
        raise NotImplementedError("the planner patches")

    async def delete(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("nothing is deleted here")
