"""A small API server with faults on order, for what a real one does not do when asked.

It keeps objects of one kind, answers lists in pages and watches from a version; `faults` are
consumed one a request, first in first out.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from mpslice.kube.client import ApiClient, Configuration
from mpslice.kube.session import Session, _exchange_session

Json = dict[str, Any]
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultyApiServer:
    """ConfigMap-like objects without a namespace under /api/v1/things."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.version = 100
        self.faults: deque[Fault] = deque()
        self.requests: list[str] = []
        self.page = 500
        self.cuts = 0  # so many watches are accepted and then cut, as proxies do
        self._events: list[tuple[int, Json]] = []
        self._changed = asyncio.Event()
        self._era = 0  # watches of an earlier era end

    def end_watches(self) -> None:
        """Every watch in progress ends, as it does when its time is up."""
        self._era += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def put(self, name: str, **fields: Any) -> None:
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self._record(kind, name, fields)
        self.objects[name] = self._events[-1][1]["object"]

    def remove(self, name: str, *, silently: bool = False) -> None:
        obj = self.objects.pop(name)
        if silently:
            self.version += 1
        else:
            self._record("DELETED", name, {"last": obj.get("value")})

    def _record(self, kind: str, name: str, fields: Json) -> None:
        self.version += 1
        obj = {"metadata": {"name": name, "resourceVersion": str(self.version)}, **fields}
        self._events.append((self.version, {"type": kind, "object": obj}))
        self._changed.set()
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") == "true"
        self.requests.append("watch" if watching else "list")
        if self.faults:
            return await self.faults.popleft()(request)
        return await (self._watch(request) if watching else self._list(request))

    async def _list(self, request: web.Request) -> web.Response:
        names = sorted(self.objects)
        start = int(request.query.get("continue") or 0)
        end = start + self.page
        metadata: Json = {"resourceVersion": str(self.version)}
        if end < len(names):
            metadata["continue"] = str(end)
        items = [self.objects[name] for name in names[start:end]]
        return web.json_response({"kind": "ThingList", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        sent = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if self.cuts:
            self.cuts -= 1
            assert request.transport is not None
            request.transport.close()
            await asyncio.Event().wait()
        era = self._era
        while era == self._era:
            changed = self._changed
            for version, event in self._events:
                if version > sent:
                    await response.write(json.dumps(event).encode() + b"\n")
                    sent = version
            await changed.wait()
        return response


def status(code: int, *, retry_after: str = "") -> Fault:
    """An HTTP error with a Status object."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        body = {"kind": "Status", "code": code, "message": f"ordered {code}", "reason": "Test"}
        headers = {"Retry-After": retry_after} if retry_after else {}
        return web.json_response(body, status=code, headers=headers)

    return answer


def html(code: int) -> Fault:
    """What a proxy in between says."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>bad gateway</html>", status=code)

    return answer


def stream(*lines: bytes) -> Fault:
    """A watch that says these bytes and ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        return response

    return answer


def reset() -> Fault:
    """A connection that is gone without an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


def silent(*, accept: bool) -> Fault:
    """A connection on which nothing is said, before or after it is accepted as a stream."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if accept:
            await response.prepare(request)
        await asyncio.Event().wait()
        return response

    return answer


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[FaultyApiServer, Session]]:
    """The server on a free port, and a session with it."""
    server = FaultyApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = ApiClient(configuration)
    _exchange_session(client)  # as Session.connect does
    try:
        async with Session(client) as session:
            yield server, session
    finally:
        await runner.cleanup()
