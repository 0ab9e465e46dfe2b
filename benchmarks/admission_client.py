"""A client that keeps an aiohttp server busy: raw HTTP/1.1 over TLS, closed loop or steady rate.

Apart from the servers, and without an HTTP library, so that it costs less than what it measures.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field


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


async def closed_loop(target: Target, connections: int, until: Callable[[int], bool]) -> Sample:
    """Every connection sends as fast as it is answered, until `until(requests so far)`."""
    sample, request, done = Sample(), target.request, 0

    async def client(connection: Connection) -> None:
        nonlocal done
        while not until(done):
            done += 1
            started = time.perf_counter()
            await connection.post(request)
            sample.latencies.append(time.perf_counter() - started)

    opened = [await Connection.open(target) for _ in range(connections)]
    started = time.perf_counter()
    await asyncio.gather(*(client(connection) for connection in opened))
    sample.seconds = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return sample


async def steady(target: Target, rate: float, seconds: float) -> Sample:
    """A request each 1/rate seconds whatever happens; latency counts from when it was due."""
    sample, request = Sample(), target.request
    free = [await Connection.open(target) for _ in range(32)]
    loop, pending = asyncio.get_running_loop(), set()

    async def one(due: float) -> None:
        connection = free.pop() if free else await Connection.open(target)
        await connection.post(request)
        sample.latencies.append(loop.time() - due)
        free.append(connection)

    started = loop.time()
    for index in range(int(rate * seconds)):
        due = started + index / rate
        await asyncio.sleep(due - loop.time())
        task = asyncio.create_task(one(due))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    sample.seconds = loop.time() - started
    for connection in free:
        connection.close()
    return sample


def for_seconds(seconds: float) -> Callable[[int], bool]:
    """Ends a closed loop after so long."""
    end = time.perf_counter() + seconds
    return lambda _: time.perf_counter() > end


def times(requests: int) -> Callable[[int], bool]:
    """Ends a closed loop after so many requests."""
    return lambda done: done >= requests
