"""The ops port of every program: `/healthz`, `/readyz`, `/metrics`, without TLS.

It answers from a thread of its own, so that probes are answered while the program's loop is busy;
a loop that does not turn any more is what `/healthz` tells.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mpslice.flags import Address
from mpslice.ports import open_port
from mpslice.server import Limits, serving

_LIMITS: Final = Limits(connections=64, idle=75.0, drain=1.0)
_BEAT: Final = 1.0  # seconds
_UNREADY_AFTER: Final = 10.0
_DEAD_AFTER: Final = 30.0
_SCRAPE: Final = 5.0  # seconds that the loop may take to collect the metrics

Readiness = Callable[[], str]
"""Why the program is not ready, in one phrase; "" when it is.

It is called from the thread of the ops port, and so may only read plain attributes.
"""


@asynccontextmanager
async def serve_ops(
    listen: Address, registry: CollectorRegistry, not_ready: Readiness
) -> AsyncIterator[Address]:
    """Serves while inside, and yields the address at which it listens.

    For port 0 the system chooses the port. Raises CannotListen; when the port is served no more, in
    an ExceptionGroup, as `serving` does.
    """
    port = open_port("--ops-listen", listen)
    address = Address(listen.host, port.getsockname()[1])
    program = Program(registry, not_ready, asyncio.get_running_loop())
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with serving(port, program.answer, _LIMITS):
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    with ThreadPoolExecutor(1, thread_name_prefix="ops") as executor:
        thread = asyncio.get_running_loop().run_in_executor(executor, run)
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(program.beat()), tasks.create_task(_outcome(thread))]
            try:
                yield address
            finally:
                for task in work:
                    task.cancel()
                if not thread.done():
                    loop.call_soon_threadsafe(stop.set)
                    await asyncio.wait([thread])


async def _outcome(thread: asyncio.Future[None]) -> None:
    await asyncio.shield(thread)


@dataclass(slots=True)
class Program:
    """What the ops port tells of a program, and the loop that the program runs on.

    Metrics are collected on that loop: collectors read what it writes.
    """

    registry: CollectorRegistry
    not_ready: Readiness
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float] = time.monotonic
    _beaten: float = field(init=False)

    def __post_init__(self) -> None:
        self._beaten = self.clock()

    async def beat(self) -> None:
        """Notes that the loop turns, until cancelled."""
        while True:
            self._beaten = self.clock()
            await asyncio.sleep(_BEAT)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """One request to the ops port, on any loop."""
        handlers: dict[str, Callable[[], Awaitable[web.Response]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }
        handler = handlers.get(request.path)
        if handler is None:
            return web.Response(text=f"there is {', '.join(handlers)}\n", status=404)
        if request.method not in ("GET", "HEAD"):
            return web.Response(text="GET only\n", status=405, headers={"Allow": "GET, HEAD"})
        return await handler()

    async def _healthz(self) -> web.Response:
        return _said(self._stands_still(_DEAD_AFTER))

    async def _readyz(self) -> web.Response:
        return _said(self.not_ready() or self._stands_still(_UNREADY_AFTER))

    async def _metrics(self) -> web.Response:
        collecting = asyncio.run_coroutine_threadsafe(self._collect(), self.loop)
        try:
            async with asyncio.timeout(_SCRAPE):
                body = await asyncio.wrap_future(collecting)
        except TimeoutError:
            return _said(f"the program is busy: no metrics within {_SCRAPE:g} s; scrape again")
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _collect(self) -> bytes:
        return generate_latest(self.registry)

    def _stands_still(self, seconds: float) -> str:
        since = self.clock() - self._beaten
        return f"the event loop has not turned for {since:.0f} s" if since >= seconds else ""


def _said(reason: str) -> web.Response:
    return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)
