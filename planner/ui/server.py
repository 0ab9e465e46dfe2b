"""Serves the page: the file to everybody, since it holds no data, and events to readers.

It listens on the pod's own loopback address alone, where `kubectl port-forward` arrives: so tokens
cross the network inside the API server's and the kubelet's TLS, and no Service leads here.
"""

import asyncio
import logging
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from mpslice.flags import Address
from mpslice.ports import open_port
from mpslice.server import Limits, serving
from planner.ui.access import Access, Answer, Busy, Reader
from planner.ui.changes import changes, restricted
from planner.ui.feed import Feed
from planner.ui.page import EVERYWHERE, Page, load
from planner.ui.picture import Picture

STREAMS: Final = 32
"""Readers at once; a later one is answered 429."""

STREAMS_OF_ONE: Final = 8
"""Of the same user."""

BEAT: Final = 15.0
"""Seconds without a change after which a line is sent all the same, and the right asked anew."""

STUCK: Final = 10.0
"""Seconds after which a reader that does not read is dropped."""

_LIMITS: Final = Limits(connections=64, idle=75.0, stuck_answer=STUCK, drain=0.2)
_LOOK: Final = 1.0  # seconds until it is seen that a reader has gone
_LARGE: Final = 1 << 18  # bytes that are compressed beside the loop
_REFUSALS: Final = {401: "unauthorized\n", 403: "forbidden\n"}

log = logging.getLogger(__name__)


@asynccontextmanager
async def serve_page(listen: Address, access: Access, feed: Feed) -> AsyncIterator[Address]:
    """Serves while inside; yields the address with the real port. Raises CannotListen."""
    port = open_port("--ui-listen", listen)
    address = Address(listen.host, port.getsockname()[1])
    async with serving(port, PageServer(access, feed).answer, _LIMITS):
        yield address


class PageServer:
    """`/` is the file; `/events` needs a token in the header Authorization."""

    def __init__(self, access: Access, feed: Feed, page: Page | None = None) -> None:
        self._access = access
        self._feed = feed
        self._page = page or load()
        self._streams: Counter[str] = Counter()  # by user

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request. Everybody who is not a reader gets a status and nothing else."""
        reads = request.method in ("GET", "HEAD")
        if request.path == "/" and reads:
            headers = {**EVERYWHERE, "Content-Security-Policy": self._page.policy}
            return web.Response(
                body=self._page.body, content_type="text/html", charset="utf-8", headers=headers
            )
        token = _token(request)
        try:
            answer = await self._access.admit(token)
        except Busy as busy:
            log.warning("no token could be reviewed", extra={"error": str(busy)})
            return _said(503, "the API server could not be asked; try again\n")
        if answer.reader is None:
            return _refusal(answer)
        if not reads:
            return _said(405, "GET only\n", Allow="GET, HEAD")
        if request.path != "/events":
            return _said(404, "there is / and /events\n")
        if request.method == "HEAD":
            return _said(200, "")
        return await self._stream(request, token, answer.reader)

    async def _stream(
        self, request: web.BaseRequest, token: str, reader: Reader
    ) -> web.StreamResponse:
        crowded = self._streams.total() >= STREAMS
        if crowded or self._streams[reader.name] >= STREAMS_OF_ONE:
            return _said(429, "too many pages are open\n")
        self._streams[reader.name] += 1
        log.info("a page was opened", extra={"reader": reader.name})
        stream = _Stream(request)
        try:
            await self._send_events(stream, request, token)
        except ConnectionError:
            log.debug("a page has gone", extra={"reader": reader.name})
        finally:
            self._streams[reader.name] -= 1
            self._streams += Counter()  # forgets users without a stream
        return stream.response

    async def _send_events(self, stream: "_Stream", request: web.BaseRequest, token: str) -> None:
        """Sends until the reader leaves, which raises a ConnectionError, or may read no more."""
        await stream.begin()
        newest: Picture | None = None
        sent: Picture | None = None
        loop = asyncio.get_running_loop()
        due = loop.time()
        with self._feed.reading():
            while request.transport is not None:  # None once the reader has gone
                known, newest = newest, await self._feed.newer(newest, _LOOK)
                if newest is None or (newest is known and loop.time() < due):
                    continue
                due = loop.time() + BEAT
                try:
                    answer = await self._access.admit(token)
                except Busy:
                    answer = Answer(503)
                if answer.reader is None:
                    await stream.event("end", str(answer.status))
                    return
                namespaces = await self._access.visible(answer.reader, newest.namespaces)
                shown = restricted(newest, namespaces)
                text = changes(sent, shown)
                sent = shown
                await (stream.event("change", text) if text is not None else stream.beat())


class _Stream:
    """Server-sent events, compressed where the reader takes that, each flushed at once."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        headers = {**EVERYWHERE, "Content-Type": "text/event-stream; charset=utf-8"}
        self._zip = None
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            self._zip = zlib.compressobj(level=1, wbits=31)
            headers["Content-Encoding"] = "gzip"
        self.response = web.StreamResponse(headers=headers)

    async def begin(self) -> None:
        await self.response.prepare(self._request)

    async def event(self, name: str, data: str) -> None:
        await self._send(f"event: {name}\ndata: {data}\n\n".encode())

    async def beat(self) -> None:
        await self._send(b":\n\n")

    async def _send(self, data: bytes) -> None:
        """Raises ConnectionResetError when the reader has gone or does not read."""
        if len(data) > _LARGE:
            data = await asyncio.to_thread(self._packed, data)
        else:
            data = self._packed(data)
        try:
            async with asyncio.timeout(STUCK):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the reader does not read") from None

    def _packed(self, data: bytes) -> bytes:
        if self._zip is None:
            return data
        return self._zip.compress(data) + self._zip.flush(zlib.Z_SYNC_FLUSH)


def _token(request: web.BaseRequest) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refusal(answer: Answer) -> web.Response:
    asks = {"WWW_Authenticate": "Bearer"} if answer.status == 401 else {}
    return _said(answer.status, _REFUSALS[answer.status], **asks)


def _said(status: int, text: str, **headers: str) -> web.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return web.Response(text=text, status=status, headers={**EVERYWHERE, **named})
