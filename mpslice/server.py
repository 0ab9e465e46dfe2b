"""An HTTP server that no client holds up: every connection is one of a bounded number.

aiohttp's low-level server behind an accept loop of our own, because an idle, slow or stuck client
has to be cut off at every stage: the handshake, the first request, the rest of a head or body, and
the reading of our answer. When the bound is reached, the connection that keeps us waiting longest
makes room.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mpslice.ports import CannotListen

_READ_AHEAD: Final = 2**16  # bytes of a body that wait for their reader
_NO_DESCRIPTOR: Final = 0.1  # seconds until the next try, where the system gives us no socket
_NO_LISTENER: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""What accept(2) says of a socket that does not listen any more, and never will again."""

_http_log: Final = logging.getLogger(f"{__name__}.http")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """aiohttp shows a traceback when a client sends what is no HTTP; the 400 says enough."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


_http_log.addFilter(_is_ours)


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. The API server keeps an idle connection for 90 s (IdleConnTimeout of
    client-go's transport); we keep it longer, so that it never sends into one that we are closing.

    A TLS connection holds 273 KiB (asyncio's buffer of 256 KiB and OpenSSL's): 192 hold 51 MiB.
    """

    connections: int = 192
    handshake: float = 10.0
    first_request: float = 10.0
    stuck_answer: float = 10.0
    idle: float = 120.0
    drain: float = 10.0


@asynccontextmanager
async def serving(
    listening: socket.socket,
    handler: Handler,
    limits: Limits,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[None]:
    """Serves the socket while inside, over TLS where a context is given, and closes it.

    At the end no connection is accepted any more, requests in progress get `limits.drain`. A
    program that nobody can reach has to end: when the socket listens no more, what is inside is
    cancelled, and CannotListen is raised in an ExceptionGroup.
    """
    clients = _Clients(handler, limits, context)
    listening.setblocking(False)
    async with asyncio.TaskGroup() as tasks:
        accepting = tasks.create_task(clients.accept(listening))
        watching = tasks.create_task(clients.watch())
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            listening.close()
            await clients.finish()
            watching.cancel()


@dataclass(eq=False, slots=True)
class _Client:
    """One connection; `since` is when it was accepted, or its last request began or ended."""

    protocol: web.RequestHandler
    since: float
    handshake: "asyncio.Task[None] | None" = None
    request: web.BaseRequest | None = None
    asked: bool = False
    unread_since: float | None = None

    @property
    def keeps_us_waiting(self) -> bool:
        """Whether it has begun what it does not go on with: a handshake, a head, a body."""
        if self.request is not None:
            return not self.request.content.is_eof()
        return not self.asked

    @property
    def is_gone(self) -> bool:
        return self.handshake is None and self.protocol.transport is None

    def drop(self) -> None:
        if self.protocol.transport is not None:
            self.protocol.transport.abort()
        if self.handshake is not None:
            self.handshake.cancel()


@dataclass(slots=True)
class _Clients:
    """Every connection of one port."""

    handler: Handler
    limits: Limits
    context: ssl.SSLContext | None
    server: web.Server = field(init=False)
    _clients: dict[web.RequestHandler, _Client] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = web.Server(
            self._handle,
            access_log=None,
            logger=_http_log,
            keepalive_timeout=self.limits.idle,
            lingering_time=1.0,
            auto_decompress=False,
            read_bufsize=_READ_AHEAD,
        )

    async def accept(self, listening: socket.socket) -> None:
        """Takes one connection at each turn of the loop, so that a flood delays nobody else.

        Raises CannotListen when the socket listens no more.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _NO_LISTENER:
                    raise CannotListen(
                        f"the port is served no more ({error.strerror}); start the program again"
                    ) from error
                # The client went away, or there are too many open files.
                _http_log.debug("no connection was accepted", extra={"error": str(error)})
                await asyncio.sleep(_NO_DESCRIPTOR)
                continue
            if not self._has_room():
                connection.close()
                continue
            client = _Client(self.server(), loop.time())
            self._clients[client.protocol] = client
            client.handshake = asyncio.create_task(self._shake_hands(client, connection))

    def _has_room(self) -> bool:
        """Whether another connection fits; if need be, one that keeps us waiting makes room.

        After those come the idle ones, the longest idle first; what is being answered stays.
        """
        if len(self._clients) < self.limits.connections:
            return True
        self._forget_gone()
        if len(self._clients) < self.limits.connections:
            return True
        waiting = [c for c in self._clients.values() if c.keeps_us_waiting]
        idle = [c for c in self._clients.values() if c.request is None]
        for candidates in (waiting, idle):
            if candidates:
                longest = min(candidates, key=lambda client: client.since)
                longest.drop()
                del self._clients[longest.protocol]
                return True
        return False

    def _forget_gone(self) -> None:
        self._clients = {c.protocol: c for c in self._clients.values() if not c.is_gone}

    async def _shake_hands(self, client: _Client, connection: socket.socket) -> None:
        options = (
            {"ssl_handshake_timeout": self.limits.handshake, "ssl_shutdown_timeout": 1.0}
            if self.context
            else {}
        )
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: client.protocol, connection, ssl=self.context, **options
            )
        except OSError:  # of ssl too; what the client did wrong is its own affair
            self._clients.pop(client.protocol, None)
        finally:
            client.handshake = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        loop, client = asyncio.get_running_loop(), self._clients.get(request.protocol)
        if client is None:  # dropped a moment ago
            return await self.handler(request)
        client.asked, client.request, client.since = True, request, loop.time()
        try:
            return await self.handler(request)
        finally:
            client.request, client.since = None, loop.time()

    async def watch(self) -> None:
        """Cuts off connections that never ask, and those that do not read their answer."""
        pause = min(self.limits.first_request, self.limits.stuck_answer) / 4
        while True:
            await asyncio.sleep(pause)
            now = asyncio.get_running_loop().time()
            self._forget_gone()
            for client in self._clients.values():
                silent = not client.asked and client.handshake is None
                if (silent and now - client.since >= self.limits.first_request) or self._is_stuck(
                    client, now
                ):
                    client.drop()

    def _is_stuck(self, client: _Client, now: float) -> bool:
        """Whether bytes have waited long to be sent; answers are small, so nobody reads them."""
        transport = client.protocol.transport
        if transport is None or transport.get_write_buffer_size() == 0:
            client.unread_since = None
            return False
        client.unread_since = client.unread_since or now
        return now - client.unread_since >= self.limits.stuck_answer

    async def finish(self) -> None:
        """Ends idle connections at once, the others when they are answered or time is up.

        aiohttp waits for its handlers when it shuts down, but drops what they still have to read.
        """
        await asyncio.sleep(0)  # what has been accepted gets to its handler
        deadline = asyncio.get_running_loop().time() + self.limits.drain
        while asyncio.get_running_loop().time() < deadline:
            if not any(client.request for client in self._clients.values()):
                break
            await asyncio.sleep(0.01)
        for client in self._clients.values():
            if client.handshake is not None:
                client.handshake.cancel()
        self.server.pre_shutdown()
        await self.server.shutdown(self.limits.drain)
