"""The port for whoever operates the agent: `/healthz`, `/readyz` and `/metrics`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from mpslice.flags import Address
from nodeagent.errors import BadSettings


@asynccontextmanager
async def ops_server(
    address: Address | None, ready: Callable[[], bool], metrics: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Serves while the block runs; raises BadSettings when it cannot listen."""
    if address is None:
        yield
        return

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not serving the kubelet yet\n")

    async def expose(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", expose)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        async with asyncio.timeout(5.0):
            await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise BadSettings(f"--ops-listen: cannot listen on {address}: {error.strerror}") from error
    try:
        yield
    finally:
        await runner.cleanup()
