"""Connections are bounded in number: those that keep the server waiting make room for others."""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from mpslice.flags import Address
from mpslice.ports import CannotListen, open_port
from mpslice.server import Limits, serving
from tests.waiting import DEADLINE, eventually
from tests.webhook import tls

FEW = Limits(connections=3)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_A_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
HALF_A_BODY = HALF_A_HEAD + b"Content-Length: 9\r\n\r\nhalf"


class Server:
    """A server that answers at once, or, on /wait, when `free` is set."""

    def __init__(self, address: Address, pair: tls.Tls) -> None:
        self.address = address
        self.pair = pair
        self.free = asyncio.Event()
        self.begun = 0
        self.requests: list[web.BaseRequest] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.begun += 1
        self.requests.append(request)
        if request.path == "/wait":
            await self.free.wait()
        await request.read()
        return web.Response(text="answer")

    async def plain(self) -> asyncio.StreamReader:
        """A connection without a handshake."""
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        self.writers.append(writer)
        return reader

    async def sent(self, request: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(
            self.address.host, self.address.port, ssl=self.pair.client, server_hostname="localhost"
        )
        self.writers.append(writer)
        writer.write(request)
        return reader

    async def has_begun(self, count: int) -> None:
        async def begun() -> bool:
            return self.begun == count

        await eventually(begun, f"{count} requests have begun", every=0.01)


@asynccontextmanager
async def running(folder: Path, limits: Limits = FEW) -> AsyncIterator[Server]:
    port = open_port("--listen", Address("127.0.0.1", 0))
    server = Server(Address("127.0.0.1", port.getsockname()[1]), tls.make(folder))
    async with serving(port, server.handle, limits, server.pair.server):
        yield server
        server.free.set()
        for writer in server.writers:
            writer.transport.abort()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as started:
        yield started


async def answered(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(DEADLINE):
        assert (await reader.readline()).split()[1] == b"200"
        await reader.readuntil(b"answer")


async def ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(DEADLINE):
        try:
            assert await reader.read() == b""
        except (ConnectionError, ssl.SSLError):
            pass


async def test_client_in_the_midst_of_its_handshake_makes_room(server: Server) -> None:
    half = [await server.plain() for _ in range(3)]
    await answered(await server.sent(REQUEST))
    await ended(half[0])


@pytest.mark.parametrize("waiting", [b"", HALF_A_HEAD], ids=["silent", "half a head"])
async def test_client_that_never_asks_makes_room_before_one_that_has_asked(
    server: Server, waiting: bytes
) -> None:
    asked = await server.sent(REQUEST)
    await answered(asked)
    never = await server.sent(waiting)
    await answered(await server.sent(REQUEST))
    await answered(await server.sent(REQUEST))
    await ended(never)
    server.writers[0].write(REQUEST)
    await answered(asked)


async def test_client_with_half_a_body_makes_room_before_an_idle_one(server: Server) -> None:
    asked = await server.sent(REQUEST)
    await answered(asked)
    half = await server.sent(HALF_A_BODY)
    await server.has_begun(2)
    await answered(await server.sent(REQUEST))
    await answered(await server.sent(REQUEST))
    await ended(half)
    server.writers[0].write(REQUEST)
    await answered(asked)


async def test_client_that_is_idle_longest_makes_room(server: Server) -> None:
    readers = []
    for _ in range(3):
        readers.append(await server.sent(REQUEST))
        await answered(readers[-1])
    server.writers[0].write(REQUEST)
    await answered(readers[0])
    await answered(await server.sent(REQUEST))
    await ended(readers[1])
    server.writers[0].write(REQUEST)
    await answered(readers[0])


async def test_client_that_is_being_answered_stays_and_one_too_many_is_turned_away(
    server: Server,
) -> None:
    request = REQUEST.replace(b"/ ", b"/wait ", 1)
    readers = [await server.sent(request) for _ in range(3)]
    await server.has_begun(3)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await server.sent(REQUEST)
    server.free.set()
    for reader in readers:
        await answered(reader)


async def test_connection_is_not_read_while_many_of_its_requests_wait(server: Server) -> None:
    """aiohttp before 3.14.1 reads as many as are sent, and keeps them."""
    await server.sent(REQUEST.replace(b"/ ", b"/wait ", 1))
    await server.has_begun(1)
    server.writers[0].write(REQUEST * 20_000)

    async def paused() -> bool:
        transport = server.requests[0].transport
        return isinstance(transport, asyncio.ReadTransport) and not transport.is_reading()

    await eventually(paused, "the connection is read no further")


async def test_connections_that_have_ended_count_no_more(server: Server) -> None:
    for _ in range(12):
        await answered(await server.sent(REQUEST))
        server.writers[-1].transport.abort()


async def test_failed_handshakes_count_no_more(server: Server) -> None:
    for _ in range(12):
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        writer.write(b"this is not TLS\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            await reader.read()
        writer.transport.abort()
    await answered(await server.sent(REQUEST))


async def test_program_is_told_when_its_port_listens_no_more(tmp_path: Path) -> None:
    """It would serve nobody, and nobody would know."""
    port = open_port("--listen", Address("127.0.0.1", 0))
    pair = tls.make(tmp_path)
    server = Server(Address("127.0.0.1", port.getsockname()[1]), pair)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 -- what is inside is cancelled
        async with asyncio.timeout(DEADLINE), serving(port, server.handle, FEW, pair.server):
            await answered(await server.sent(REQUEST))
            port.shutdown(socket.SHUT_RDWR)
            await asyncio.Event().wait()
    assert [type(error) for error in caught.value.exceptions] == [CannotListen]


async def test_connection_for_which_there_is_no_descriptor_now_is_accepted_later(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def failed() -> bool:
        return "no connection was accepted" in caplog.text

    caplog.set_level("DEBUG")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.setblocking(False)
        next_one = os.dup(client.fileno())
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            address = (server.address.host, server.address.port)
            await asyncio.get_running_loop().sock_connect(client, address)
            await eventually(failed, "a connection was not accepted", every=0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.begun == 0
        await answered(await server.sent(REQUEST))
