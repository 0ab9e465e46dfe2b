"""The ops port of every program: `/healthz`, `/readyz`, `/metrics`, without TLS."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mpslice.errors import MpsliceError
from mpslice.flags import Address

Readiness = Callable[[], str]
"""Why the program is not ready, in one phrase; "" when it is."""


class CannotListen(MpsliceError):
    """The address is taken or not ours."""


def ops_application(registry: CollectorRegistry, not_ready: Readiness) -> web.Application:
    """The three endpoints as an aiohttp application."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(_request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(registry), headers=headers)

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", metrics)
    return application


@asynccontextmanager
async def serve_ops(
    listen: Address, registry: CollectorRegistry, not_ready: Readiness
) -> AsyncIterator[Address]:
    """Serves while inside; yields the address, whose port is the real one where 0 was asked for.

    Raises CannotListen.
    """
    runner = web.AppRunner(ops_application(registry, not_ready), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen.host, listen.port)
        try:
            await site.start()
        except OSError as error:
            raise CannotListen(
                f"--ops-listen: cannot listen on {listen} ({error.strerror}); choose another port"
            ) from error
        yield Address(listen.host, runner.addresses[0][1])
    finally:
        await runner.cleanup()
