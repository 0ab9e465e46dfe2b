"""A client that keeps an aiohttp server busy: raw HTTP/1.1 over TLS, closed loop or steady rate.

Apart from the servers, and without an HTTP library, so that it costs less than what it measures.
"""

import asyncio
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and the request to send: head and body."""

    port: int
    context: ssl.SSLContext
    request: bytes


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request on its way at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(
            cls, "127.0.0.1", target.port, ssl=target.context, server_hostname="localhost"
        )
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._buffer.find(b"Content-Length: ") + 16
        length = int(self._buffer[start : self._buffer.find(b"\r\n", start)])
        if len(self._buffer) < head + 4 + length or self._answer is None:
            return
        answer, self._buffer = bytes(self._buffer[: head + 4 + length]), bytearray()
        self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed"))

    async def post(self, request: bytes) -> bytes:
        """The whole answer, head and body; fails unless it is a 200."""
        self._answer = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(request)
        answer = await self._answer
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(slots=True)
class Sample:
    """Latencies in seconds, and over how long they were taken."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """In milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


@asynccontextmanager
async def connected(target: Target, connections: int) -> AsyncIterator[list[Connection]]:
    """So many connections; shaking hands is not what is measured."""
    opened = [await Connection.open(target) for _ in range(connections)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def closed_loop(
    connections: list[Connection],
    request: bytes,
    *,
    seconds: float = inf,
    requests: int = sys.maxsize,
) -> Sample:
    """Every connection sends as fast as it is answered, for so long or so often in all."""
    sample, started, sent = Sample(), time.perf_counter(), 0

    async def client(connection: Connection) -> None:
        nonlocal sent
        while sent < requests and (due := time.perf_counter()) < started + seconds:
            sent += 1
            await connection.post(request)
            sample.latencies.append(time.perf_counter() - due)

    await asyncio.gather(*map(client, connections))
    sample.seconds = time.perf_counter() - started
    return sample


async def steady(
    connections: list[Connection], request: bytes, *, rate: float, seconds: float
) -> Sample:
    """A request each 1/rate seconds whatever happens; latency counts from when it was due."""
    sample, loop = Sample(), asyncio.get_running_loop()
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)

    async def one(due: float) -> None:
        connection = await free.get()
        await connection.post(request)
        sample.latencies.append(loop.time() - due)
        free.put_nowait(connection)

    started = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for index in range(int(rate * seconds)):
            due = started + index / rate
            await asyncio.sleep(due - loop.time())
            tasks.create_task(one(due))
    sample.seconds = loop.time() - started
    return sample
