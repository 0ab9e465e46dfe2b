"""The two paths over real TLS: statuses, limits, clients that are slow or stuck, draining."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mpslice.flags import Address
from mpslice.ports import open_port
from mpslice.server import Limits, serving
from tests.waiting import DEADLINE, eventually
from tests.webhook import tls
from tests.webhook.cases import SLICE, container, pod
from tests.webhook.test_review import review
from tests.webhook.tls import Tls
from webhook.admission import Admission
from webhook.bodies import LONGEST_BODY, Bodies
from webhook.metrics import Metrics
from webhook.settings import Settings

LOCAL = Address("127.0.0.1", 0)
PATIENT = Limits(
    handshake=DEADLINE, first_request=DEADLINE, stuck_answer=DEADLINE, idle=DEADLINE, drain=2.0
)
SHORT = 0.2
"""Seconds; each test is short of patience in one way alone: a busy machine exceeds the others."""


@dataclass
class Running:
    """A server, and how to speak to it."""

    address: Address
    admission: Admission
    metrics: Metrics
    tls: Tls
    begun: asyncio.Event

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.address.port, ssl=self.tls.client, server_hostname="localhost"
        )

    async def ask(self, raw: bytes) -> tuple[int, dict[str, str], Any]:
        """Sends bytes on a connection of its own; status, headers and the JSON of the answer."""
        reader, writer = await self.connect()
        writer.write(raw)
        try:
            return await read_answer(reader)
        finally:
            writer.close()

    def counted(self, endpoint: str, verdict: str, reason: str = "") -> float | None:
        labels = {"endpoint": endpoint, "verdict": verdict, "reason": reason}
        return self.metrics.registry.get_sample_value("mpslice_admission_requests_total", labels)


def post(path: str, body: bytes, length: int | None = None) -> bytes:
    """A request, whose announced length may be a lie."""
    announced = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    async with asyncio.timeout(DEADLINE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


@asynccontextmanager
async def running(
    folder: Path, limits: Limits | None = None, bodies: Bodies | None = None
) -> AsyncIterator[Running]:
    metrics, begun = Metrics(), asyncio.Event()
    admission = Admission(Settings(), metrics, bodies=bodies)
    pair = tls.make(folder)

    async def handle(request: web.BaseRequest) -> web.Response:
        begun.set()
        return await admission.handle(request)

    port = open_port("--listen", LOCAL)
    address = Address("127.0.0.1", port.getsockname()[1])
    async with serving(port, handle, limits or Limits(), pair.server):
        yield Running(address, admission, metrics, pair, begun)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as started:
        yield started


async def test_pod_is_mutated_and_a_bad_one_refused(server: Running) -> None:
    status, _, answer = await server.ask(post("/mutate?timeout=5s", review(pod())))
    assert (status, answer["response"]["patchType"]) == (200, "JSONPatch")
    bad = review(pod(container({SLICE: 2})))
    status, _, answer = await server.ask(post("/validate", bad))
    assert (status, answer["response"]["status"]["code"]) == (200, 403)
    assert server.counted("mutate", "patched") == 1
    assert server.counted("validate", "refused", "MultipleSlices") == 1


async def test_connection_serves_one_review_after_another(server: Running) -> None:
    reader, writer = await server.connect()
    for _ in range(3):
        writer.write(post("/mutate", review(pod())))
        status, headers, _ = await read_answer(reader)
        assert (status, headers.get("connection")) == (200, None)
    writer.close()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[" * 50_000, b'{"a": NaN}', b'"\\ud800"', b"\x00\xff"]
)
async def test_what_is_no_review_is_400_with_a_message(server: Running, body: bytes) -> None:
    status, _, answer = await server.ask(post("/validate", body))
    assert (status, answer["kind"], answer["code"]) == (400, "Status", 400)
    assert answer["message"]
    assert server.counted("validate", "malformed") == 1


async def test_body_that_is_announced_too_large_is_413_at_once(server: Running) -> None:
    status, headers, answer = await server.ask(post("/mutate", b"", LONGEST_BODY + 1))
    assert (status, headers["connection"]) == (413, "close")
    assert "8 MiB" in answer["message"]
    assert server.counted("mutate", "too_large") == 1


async def test_body_that_turns_out_too_large_is_413(server: Running) -> None:
    reader, writer = await server.connect()
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    for _ in range(9):
        writer.write(chunk)
    status, _, _ = await read_answer(reader)
    assert status == 413
    writer.close()


async def test_body_of_the_largest_size_is_read(server: Running) -> None:
    body = review(pod())
    padded = body[:-1] + b" " * (LONGEST_BODY - len(body)) + b"}"
    status, _, _ = await server.ask(post("/mutate", padded))
    assert (len(padded), status) == (LONGEST_BODY, 200)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"POST http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
    ids=["junk", "length", "chunk", "address", "head"],
)
async def test_what_is_no_http_is_400_and_no_error_of_ours(
    server: Running, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await server.connect()
    writer.write(raw)
    assert (await _end_of(reader)).split()[1] == b"400"
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "rest", [b"zz\r\nxx", b"0\r\n\x00bad: \x01\r\n\r\n"], ids=["size", "trailer"]
)
async def test_broken_chunk_after_a_good_one_is_a_body_that_does_not_arrive(
    tmp_path: Path, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, bodies=Bodies(seconds=0.1)) as server:
        reader, writer = await server.connect()
        head = b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b'5\r\n{"a":\r\n')
        await server.begun.wait()
        writer.write(rest)
        status, headers, _ = await read_answer(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert await _end_of(reader) == b""
        writer.close()
        assert server.counted("mutate", "too_slow") == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_client_that_goes_away_with_half_a_body_is_no_error_of_ours(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await server.connect()
    writer.write(post("/mutate", b'{"half', 1000))
    await server.begun.wait()
    writer.transport.abort()

    async def counted() -> bool:
        return server.counted("mutate", "malformed") == 1

    await eventually(counted, "it is counted", every=0.01)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_other_paths_and_methods_say_what_there_is(server: Running) -> None:
    status, _, answer = await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, "/mutate" in answer["message"]) == (404, True)
    status, headers, _ = await server.ask(b"GET /mutate HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, headers["allow"]) == (405, "post")


async def test_client_that_never_asks_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, replace(PATIENT, first_request=SHORT)) as server:
        reader, writer = await server.connect()
        assert await _end_of(reader) == b""
        writer.close()


async def test_client_that_never_finishes_its_head_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, replace(PATIENT, first_request=SHORT)) as server:
        reader, writer = await server.connect()
        writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\n")
        assert await _end_of(reader) == b""
        writer.close()


async def test_client_that_never_shakes_hands_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, replace(PATIENT, handshake=SHORT)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
        assert await _end_of(reader) == b""
        writer.close()


async def test_idle_connection_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, replace(PATIENT, idle=SHORT)) as server:
        reader, writer = await server.connect()
        writer.write(post("/mutate", review(pod())))
        assert (await read_answer(reader))[0] == 200
        assert await _end_of(reader) == b""
        writer.close()


async def test_client_whose_body_never_comes_is_told_and_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, bodies=Bodies(seconds=0.1)) as server:
        reader, writer = await server.connect()
        writer.write(post("/mutate", b'{"half', 1000))
        status, _, answer = await read_answer(reader)
        assert (status, "0.1 s" in answer["message"]) == (408, True)
        assert await _end_of(reader) == b""
        writer.close()


async def test_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, replace(PATIENT, stuck_answer=SHORT)) as server:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            _Deaf,
            "127.0.0.1",
            server.address.port,
            ssl=server.tls.client,
            server_hostname="localhost",
        )
        await protocol.connected
        transport.pause_reading()
        request = post("/mutate", review(pod()))
        while not protocol.lost.done():
            transport.write(request * 200)
            await asyncio.wait([protocol.lost], timeout=0.02)
        assert protocol.lost.done()


class _Deaf(asyncio.Protocol):
    """A client that sends and never reads."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.connected, self.lost = loop.create_future(), loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def test_busy_connection_outlives_every_limit(tmp_path: Path) -> None:
    limits = Limits(handshake=1.0, first_request=1.0, stuck_answer=1.0, idle=60)
    async with running(tmp_path, limits) as server:
        reader, writer = await server.connect()
        end = asyncio.get_running_loop().time() + 2 * limits.first_request
        while asyncio.get_running_loop().time() < end:
            writer.write(post("/mutate", review(pod())))
            assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_draining_server_asks_its_clients_to_go_elsewhere(server: Running) -> None:
    reader, writer = await server.connect()
    writer.write(post("/mutate", review(pod())))
    await read_answer(reader)
    server.admission.draining = True
    writer.write(post("/mutate", review(pod())))
    status, headers, _ = await read_answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert await _end_of(reader) == b""
    writer.close()


async def test_request_in_progress_is_answered_before_the_port_is_given_up(tmp_path: Path) -> None:
    body = review(pod())
    async with running(tmp_path) as server:
        reader, writer = await server.connect()
        idle, idle_writer = await server.connect()
        writer.write(post("/mutate", body[:100], len(body)))
        await server.begun.wait()
        writer.write(body[100:])
    status, _, _ = await read_answer(reader)
    assert status == 200
    assert await _end_of(idle) == b""
    writer.close()
    idle_writer.close()


async def _end_of(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other side closes."""
    async with asyncio.timeout(DEADLINE):
        try:
            return await reader.read()
        except ConnectionError:
            return b""
