"""A client of the model at the `Kube` seam, which can be late and in trouble as over a network."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mpslice.kube.api import Json, PatchType, Query, Resource
from tests.api.model import ApiModel, Stream
from tests.api.patching import copied

_BOOKMARKS: Final = 60.0  # seconds between them, as in the API server


@dataclass(frozen=True, slots=True)
class Call:
    """A request: `verb` as in RBAC; `name` is "" for a list and a watch."""

    verb: str
    resource: Resource
    name: str = ""
    namespace: str = ""
    body: Any = None
    subresource: str = ""

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")


class ModelKube:
    """`before` and `after` each request may wait or raise a KubeError; after it, it was done."""

    def __init__(self, api: ApiModel | None = None) -> None:
        self.api = api or ApiModel()

    async def before(self, call: Call) -> None:
        await asyncio.sleep(0)

    async def after(self, call: Call) -> None: ...

    async def read(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        call = Call("get", resource, name, namespace or "")
        await self.before(call)
        answer = self.api.read(resource, name, namespace)
        await self.after(call)
        return answer

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        call = Call("list", resource, namespace=namespace or "")
        await self.before(call)
        answer = self.api.list_page(resource, namespace, query)
        await self.after(call)
        return answer

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        await self.before(Call("watch", resource, namespace=namespace or ""))
        stream = self.api.open(resource, namespace, query)
        try:
            async for event in _follow(stream, query):
                yield event
        finally:
            self.api.streams.remove(stream)

    async def create(self, resource: Resource, body: Json, *, namespace: str | None = None) -> Json:
        name = str(body["metadata"].get("name") or "")
        call = Call("create", resource, name, namespace or "", body)
        await self.before(call)
        answer = self.api.create(resource, body, namespace)
        await self.after(call)
        return answer

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json:
        call = Call("update", resource, name, namespace or "", body)
        await self.before(call)
        answer = self.api.replace(resource, name, body, namespace)
        await self.after(call)
        return answer

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
        call = Call("patch", resource, name, namespace or "", body, subresource or "")
        await self.before(call)
        answer = self.api.patch(resource, name, body, type, namespace, subresource)
        await self.after(call)
        return answer

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        grace_seconds: int | None = None,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        call = Call("delete", resource, name, namespace or "")
        await self.before(call)
        self.api.delete(resource, name, namespace, grace_seconds, uid, resource_version)
        await self.after(call)


async def _follow(stream: Stream, query: Query) -> AsyncIterator[Json]:
    loop = asyncio.get_running_loop()
    seconds = float(query.get("timeoutSeconds") or "inf")
    bookmarks = query.get("allowWatchBookmarks") == "true"
    end, next_bookmark = loop.time() + seconds, loop.time() + _BOOKMARKS
    while True:
        while stream.waiting:
            yield copied(stream.waiting.popleft())
        if stream.trouble is not None:
            raise stream.trouble
        now = loop.time()
        if bookmarks and (now >= next_bookmark or now >= end):
            next_bookmark = now + _BOOKMARKS
            yield _bookmark(stream)
        if now >= end:
            return
        due = min(end, next_bookmark) if bookmarks else end
        await stream.wait(due if due != float("inf") else None)


def _bookmark(stream: Stream) -> Json:
    return {
        "type": "BOOKMARK",
        "object": {"metadata": {"resourceVersion": str(stream.version)}},
    }
