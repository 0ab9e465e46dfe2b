"""The TLS port: who may be a client, for how long, and how the port is given up.

aiohttp's low-level server, because an idle, slow or stuck client has to be cut off at every stage:
the handshake, the first request, the rest of a head, and the reading of our answer.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from mpslice.flags import Address
from mpslice.ops import open_port
from webhook.admission import LONGEST_BODY

_http_log: Final = logging.getLogger(f"{__name__}.http")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """aiohttp shows a traceback when a client sends what is no HTTP; the 400 says enough."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


_http_log.addFilter(_is_ours)


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds. The API server keeps an idle connection for 90 s (IdleConnTimeout of client-go's
    transport); we keep it longer, so that it never sends into one that we are closing.
    """

    handshake: float = 10.0
    first_request: float = 10.0
    stuck_answer: float = 10.0
    idle: float = 120.0
    drain: float = 10.0


@asynccontextmanager
async def listening(
    listen: Address, context: ssl.SSLContext, handler: Handler, limits: Limits | None = None
) -> AsyncIterator[Address]:
    """Serves while inside; yields the address with its real port. Raises CannotListen.

    At the end no connection is accepted any more, requests in progress get `limits.drain`.
    """
    limits = limits or Limits()
    watch = _Watch(limits)
    server = web.Server(watch.note(handler), request_factory=_request)
    watch.server = server
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {
        "access_log": None,
        "logger": _http_log,
        "keepalive_timeout": limits.idle,
        "lingering_time": 1.0,
        "auto_decompress": False,
    }
    sockets = await loop.create_server(
        lambda: _Connection(server, loop=loop, **options),
        sock=open_port("--listen", listen),
        ssl=context,
        ssl_handshake_timeout=limits.handshake,
        ssl_shutdown_timeout=1.0,
        backlog=1024,
    )
    watching = asyncio.create_task(watch.run())
    try:
        yield Address(listen.host, sockets.sockets[0].getsockname()[1])
    finally:
        sockets.close()
        await watch.finished()
        server.pre_shutdown()
        await server.shutdown(limits.drain)
        watching.cancel()


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    # As web.Server makes it, but for the limit, which is 1 MiB otherwise.
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=LONGEST_BODY
    )


class _Connection(web.RequestHandler):
    """Tells who reads a body that the rest of it is no HTTP.

    aiohttp's parser in C keeps that for the next request, and the reader would wait in vain.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        request, queued = self._current_request, self._messages
        if request is None or request.content.is_eof() or not queued:
            return
        error = queued[-1][0]
        if not isinstance(error, RawRequestMessage) and request.content.exception() is None:
            request.content.set_exception(web.RequestPayloadError(error.message))


@dataclass(slots=True)
class _Watch:
    """Cuts off connections that never ask, and those that do not read what they asked for."""

    limits: Limits
    server: web.Server | None = None
    _busy: int = 0
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: set[object] = field(default_factory=set)
    _silent_since: dict[object, float] = field(default_factory=dict)
    _unread_since: dict[object, float] = field(default_factory=dict)

    def note(self, handler: Handler) -> Handler:
        """The handler, with which connection has asked, and how many wait for a body, noted."""

        def noted(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            self._asked.add(request.protocol)
            waits = not request.content.is_eof()
            return self._counted(handler, request) if waits else handler(request)

        return noted

    async def _counted(self, handler: Handler, request: web.BaseRequest) -> web.StreamResponse:
        self._busy += 1
        try:
            return await handler(request)
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._quiet.set()

    async def finished(self) -> None:
        """Returns when no body is on its way any more, after `limits.drain` at the latest.

        aiohttp waits for its handlers when it shuts down, but drops what they still have to read.
        """
        await asyncio.sleep(0)  # what has been accepted gets to its handler
        try:
            async with asyncio.timeout(self.limits.drain):
                while self._busy:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            pass

    async def run(self) -> None:
        pause = min(self.limits.first_request, self.limits.stuck_answer) / 4
        while True:
            await asyncio.sleep(pause)
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        connections = self.server.connections if self.server else []
        silent = [c for c in connections if c not in self._asked]
        self._cut(silent, self._silent_since, now, self.limits.first_request)
        unread = [c for c in connections if _unread(c)]
        self._cut(unread, self._unread_since, now, self.limits.stuck_answer)
        self._asked.intersection_update(connections)

    def _cut(
        self,
        suspects: list[web.RequestHandler],
        since: dict[object, float],
        now: float,
        limit: float,
    ) -> None:
        for gone in since.keys() - set(suspects):
            del since[gone]
        for suspect in suspects:
            if now - since.setdefault(suspect, now) >= limit and suspect.transport:
                suspect.transport.abort()


def _unread(connection: web.RequestHandler) -> bool:
    """Whether bytes wait to be sent; answers are small, so they only do when nobody reads."""
    transport = connection.transport
    return transport is not None and transport.get_write_buffer_size() > 0
