"""The ops port answers while the program is busy, and tells when its loop stands still."""

import asyncio
import http.client
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mpslice.flags import Address
from mpslice.ops import Program, serve_ops
from mpslice.ports import CannotListen, open_port
from tests.waiting import DEADLINE

LOCAL = Address("127.0.0.1", 0)


def get(address: Address, path: str, method: str = "GET") -> tuple[int, str]:
    """Asks without the event loop, so that it can be asked while that stands still."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=DEADLINE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def serving(
    registry: CollectorRegistry | None = None, not_ready: Callable[[], str] = lambda: ""
) -> AsyncIterator[Address]:
    async with serve_ops(LOCAL, registry or CollectorRegistry(), not_ready) as address:
        yield address


async def test_probes_are_answered_while_the_program_is_busy() -> None:
    async with serving() as address:
        for path in ("/healthz", "/readyz"):  # the event loop stands still all the while
            assert get(address, path) == (200, "ok\n")


async def test_readiness_tells_its_reason() -> None:
    async with serving(not_ready=lambda: "starting") as address:
        assert get(address, "/readyz") == (503, "starting\n")
        assert get(address, "/healthz") == (200, "ok\n")


async def test_metrics_are_collected_where_the_program_runs() -> None:
    """So that no collector meets what the program is just changing."""
    threads = []

    class Asked(Collector):
        def collect(self) -> list[GaugeMetricFamily]:
            threads.append(asyncio.get_running_loop())
            return []

    registry = CollectorRegistry()
    Counter("seen", "Seen.", registry=registry).inc()
    registry.register(Asked())
    threads.clear()
    async with serving(registry) as address:
        status, body = await asyncio.to_thread(get, address, "/metrics")
    assert (status, "seen_total 1.0" in body) == (200, True)
    assert threads == [asyncio.get_running_loop()]


async def test_metrics_of_a_program_that_stays_busy_are_told_to_be_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpslice.ops._SCRAPE", 0.05)
    async with serving() as address:
        status, body = get(address, "/metrics")  # nothing turns the event loop
    assert (status, "no metrics within 0.05 s" in body) == (503, True)


async def test_other_paths_and_methods_say_what_there_is() -> None:
    async with serving() as address:
        status, body = get(address, "/")
        assert (status, "/healthz" in body) == (404, True)
        assert get(address, "/healthz", "POST")[0] == 405
        assert get(address, "/healthz", "HEAD") == (200, "")


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Asking:
    """A request for a path."""

    method = "GET"

    def __init__(self, path: str) -> None:
        self.path = path


async def statuses(program: Program) -> tuple[int, int]:
    health = await program.answer(Asking("/healthz"))  # type: ignore[arg-type]
    readiness = await program.answer(Asking("/readyz"))  # type: ignore[arg-type]
    return health.status, readiness.status


async def test_a_loop_that_stands_still_is_unready_first_and_dead_later() -> None:
    clock = Clock()
    program = Program(CollectorRegistry(), lambda: "", asyncio.get_running_loop(), clock)
    seen = []
    for clock.now in (0.0, 9.9, 10.0, 29.9, 30.0):
        seen.append(await statuses(program))
    assert seen == [(200, 200), (200, 200), (200, 503), (200, 503), (503, 503)]
    beating = asyncio.create_task(program.beat())
    await asyncio.sleep(0)
    assert await statuses(program) == (200, 200)
    beating.cancel()


async def test_port_is_free_again_at_the_end() -> None:
    async with serving() as address:
        pass
    async with serve_ops(address, CollectorRegistry(), lambda: ""):
        with pytest.raises(CannotListen, match=r"--ops-listen: cannot listen on .* another port"):
            async with serve_ops(address, CollectorRegistry(), lambda: ""):
                pass


async def test_program_is_told_when_its_ops_port_listens_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports: list[socket.socket] = []

    def noted(flag: str, address: Address) -> socket.socket:
        ports.append(open_port(flag, address))
        return ports[0]

    monkeypatch.setattr("mpslice.ops.open_port", noted)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 -- what is inside is cancelled
        async with asyncio.timeout(DEADLINE), serving() as address:
            assert get(address, "/healthz") == (200, "ok\n")
            ports[0].shutdown(socket.SHUT_RDWR)
            await asyncio.Event().wait()
    assert caught.group_contains(CannotListen)


async def test_many_idle_connections_do_not_keep_a_probe_out() -> None:
    async with serving() as address:
        writers = [
            (await asyncio.open_connection(address.host, address.port))[1] for _ in range(200)
        ]
        started = time.monotonic()
        assert get(address, "/healthz") == (200, "ok\n")
        assert time.monotonic() - started < 10
        for writer in writers:
            writer.transport.abort()
