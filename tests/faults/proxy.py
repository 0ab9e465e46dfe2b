"""A proxy in front of the API server, through which our programs speak to it, and which fails.

It passes on what they send with their tokens, in HTTP/1.1 over TLS, and does with requests and
watches what its `troubles` say. Nobody else's requests go through it.
"""

import asyncio
import json
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import aiohttp
from aiohttp import web
from yarl import URL

from hack.cluster import network
from hack.cluster.controlplane import ControlPlane

_PASSED_ON: Final = ("Authorization", "Content-Type", "Accept", "User-Agent")
_LONGEST_LINE: Final = 2**21
_QUIET_KINDS: Final = ("leases", "events")
"""What is written for its own sake: a leader renews its lease all the time."""


class Trouble(StrEnum):
    """What the proxy does to requests and watches while it lasts."""

    AWAY = "the API server refuses connections"
    SLOW = "the API server is slow"
    BUSY = "the API server answers 429"
    BROKEN = "the API server answers 500"
    UNANSWERED = "answers to writes are lost"
    CUT = "watches are cut in the middle of an event"
    EXPIRED = "versions have expired (410)"
    LOST = "watch events are lost until a list"
    DOUBLED = "watch events come twice"


@dataclass(eq=False, slots=True)
class _Stream:
    """A watch that lasts. `last` are its last bytes, and whether its connection breaks then."""

    last: "asyncio.Future[tuple[bytes, bool]]"

    def end(self, last: bytes, *, breaks: bool) -> None:
        if not self.last.done():
            self.last.set_result((last, breaks))


def _status(code: int, reason: str, message: str) -> dict[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


_GONE: Final = _status(410, "Expired", "too old resource version")
_GONE_EVENT: Final = json.dumps({"type": "ERROR", "object": _GONE}).encode() + b"\n"


class Proxy:
    """`writes` counts requests to write by program; those that nobody waits for are left out."""

    def __init__(self, plane: ControlPlane, dice: random.Random) -> None:
        self.url = ""
        self.dice = dice
        self.troubles: Counter[Trouble] = Counter()
        self.writes: Counter[str] = Counter()
        self._plane = plane
        self._streams: set[_Stream] = set()
        self._client: aiohttp.ClientSession

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serves while inside."""
        pki = self._plane.pki
        trust = ssl.create_default_context(cafile=str(pki.authority.pair.certificate))
        trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(pki.server.certificate, pki.server.key)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        (port,) = network.free_ports(1)
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        self._client = aiohttp.ClientSession(
            connector=connector, timeout=timeout, read_bufsize=_LONGEST_LINE
        )
        async with self._client:
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", port, ssl_context=own).start()
                self.url = f"https://127.0.0.1:{port}"
                yield
            finally:
                for stream in list(self._streams):
                    stream.end(b"", breaks=True)
                await runner.cleanup()

    # Troubles.

    def begin(self, trouble: Trouble) -> None:
        self.troubles[trouble] += 1
        if trouble is Trouble.AWAY:
            self._end_streams(b"", breaks=True)
        elif trouble is Trouble.CUT:
            self._end_streams(b'{"type":"MODIFIED","object":{"kind":', breaks=True)
        elif trouble is Trouble.EXPIRED:
            self._end_streams(_GONE_EVENT, breaks=False)

    def end(self, trouble: Trouble) -> None:
        self.troubles[trouble] -= 1
        if trouble is Trouble.LOST:  # no API server has a watch go on after a gap
            self._end_streams(_GONE_EVENT, breaks=False)

    def _end_streams(self, last: bytes, *, breaks: bool) -> None:
        for stream in list(self._streams):
            stream.end(last, breaks=breaks)

    def _is_on(self, trouble: Trouble, share: float = 1.0) -> bool:
        return self.troubles[trouble] > 0 and self.dice.random() < share

    # Requests.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        watches = request.query.get("watch") == "true"
        writes = request.method != "GET"
        if writes:
            self._count(request, body)
        if self._is_on(Trouble.SLOW):
            await asyncio.sleep(self.dice.uniform(0.3, 2.0))
        if self._is_on(Trouble.AWAY):
            return self._break(request)
        refusal = self._refusal(expires=watches)
        if refusal is not None:
            return refusal
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        url = URL(f"{self._plane.url}{request.raw_path}", encoded=True)
        try:
            async with self._client.request(
                request.method, url, data=body or None, headers=headers
            ) as answer:
                if watches and answer.status == 200:
                    return await self._stream(request, answer)
                payload = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return self._break(request)
        if writes and self._is_on(Trouble.UNANSWERED, 0.5):
            return self._break(request)
        return web.Response(
            status=answer.status, body=payload, content_type=answer.content_type or None
        )

    def _count(self, request: web.Request, body: bytes) -> None:
        words = request.path.split("/")
        of_status = "nodes" in words and words[-1] == "status"
        annotates_alone = of_status and b'"status"' not in body  # nos's, a minute late
        if annotates_alone or any(kind in words for kind in _QUIET_KINDS):
            return
        program = request.headers.get("User-Agent", "").partition("/")[0]
        self.writes[f"{program}: {request.method} {request.path}"] += 1

    def _refusal(self, *, expires: bool) -> web.Response | None:
        if self._is_on(Trouble.BUSY, 0.5):
            status = _status(429, "TooManyRequests", "too many requests, please try again later")
            return web.json_response(status, status=429, headers={"Retry-After": "1"})
        if self._is_on(Trouble.BROKEN, 0.5):
            status = _status(500, "InternalError", "etcdserver: leader changed")
            return web.json_response(status, status=500)
        if expires and self._is_on(Trouble.EXPIRED):
            return web.json_response(_GONE, status=410)
        return None

    def _break(self, request: web.Request) -> web.Response:
        """The connection ends without an answer."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    # Watches.

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "application/json"})
        await reply.prepare(request)
        stream = _Stream(asyncio.get_running_loop().create_future())
        self._streams.add(stream)
        copying = asyncio.create_task(self._copy(answer, reply))
        ends: tuple[asyncio.Future[Any], ...] = (copying, stream.last)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(stream)
            copying.cancel()
            (failure,) = await asyncio.gather(copying, return_exceptions=True)
        last, breaks = stream.last.result() if stream.last.done() else (b"", failure is not None)
        if last and request.transport is not None and not request.transport.is_closing():
            await reply.write(last)
        if breaks:
            self._break(request)
        return reply

    async def _copy(self, answer: aiohttp.ClientResponse, reply: web.StreamResponse) -> None:
        async for line in answer.content:
            is_event = b'"type":"BOOKMARK"' not in line[:40]
            if self._is_on(Trouble.SLOW):
                await asyncio.sleep(self.dice.uniform(0.0, 2.0))
            if is_event and self._is_on(Trouble.LOST, 0.4):
                continue
            await reply.write(line)
            if is_event and self._is_on(Trouble.DOUBLED, 0.5):
                await reply.write(line)


__all__ = ["Proxy", "Trouble"]
