"""The ops port of every program: `/healthz`, `/readyz`, `/metrics`, without TLS."""

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mpslice.errors import MpsliceError
from mpslice.flags import Address

_BACKLOG: Final = 1024

Readiness = Callable[[], str]
"""Why the program is not ready, in one phrase; "" when it is."""


class CannotListen(MpsliceError):
    """The address is taken or not ours."""


def open_port(flag: str, listen: Address) -> socket.socket:
    """A listening socket; `[::]` takes IPv4 too, and is 0.0.0.0 on a machine without IPv6.

    So one setting serves pods of either family. Raises CannotListen, naming the flag.
    """
    try:
        if listen.host == "::":
            return _every_address(listen.port)
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        return socket.create_server((listen.host, listen.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # socket.create_server says the address once more in brackets.
        why = str(error.strerror).partition(" (")[0]
        raise CannotListen(
            f"{flag}: cannot listen on {listen} ({why}); choose another port"
        ) from error


def _every_address(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is known, and off by a sysctl
                raise
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)


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
        await web.SockSite(runner, open_port("--ops-listen", listen), backlog=_BACKLOG).start()
        yield Address(listen.host, runner.addresses[0][1])
    finally:
        await runner.cleanup()
