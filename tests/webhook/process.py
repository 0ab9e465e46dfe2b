"""`mpslice-webhook` as a process, and how to speak to its two ports."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.waiting import DEADLINE, eventually
from tests.webhook.tls import Tls

_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("MPSLICE_")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "webhook.main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_ENVIRONMENT,
    )


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    status: int
    stdout: str
    stderr: str


async def ended(*arguments: str) -> Outcome:
    """Starts the program, which has to end by itself."""
    process = await start(*arguments)
    try:
        async with asyncio.timeout(DEADLINE):
            stdout, stderr = await process.communicate()
    finally:
        await _kill(process)
    return Outcome(process.returncode or 0, stdout.decode(), stderr.decode())


@dataclass(frozen=True)
class Webhook:
    """A webhook that runs; `host` is where both ports are."""

    process: asyncio.subprocess.Process
    port: int
    ops_port: int
    tls: Tls | None = None
    host: str = "127.0.0.1"

    async def not_ready(self) -> str:
        """Why /readyz says no, "" when it says yes."""
        try:
            status, body = await self.ops("readyz")
        except aiohttp.ClientError as error:
            return str(error) or type(error).__name__
        return "" if status == 200 else body

    async def ops(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.ops_port}/{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """Posts over TLS, verified; the status and the JSON of the answer."""
        assert self.tls is not None
        url = f"https://localhost:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, ssl=self.tls.client) as answer,
        ):
            return answer.status, json.loads(await answer.read())

    async def become_ready(self) -> None:
        async def ready() -> bool:
            assert self.process.returncode is None, "the webhook has ended"
            return await self.not_ready() == ""

        await eventually(ready, "the webhook is ready")


@asynccontextmanager
async def standalone(tls: Tls, arguments: Sequence[str] = ()) -> AsyncIterator[Webhook]:
    """A webhook without a cluster that serves the certificate given; ready."""
    port, ops_port = free_port(), free_port()
    process = await start(
        "--standalone",
        f"--listen=127.0.0.1:{port}",
        f"--ops-listen=127.0.0.1:{ops_port}",
        f"--tls-cert-file={tls.certificate}",
        f"--tls-private-key-file={tls.key}",
        *arguments,
    )
    webhook = Webhook(process, port, ops_port, tls)
    try:
        await webhook.become_ready()
        yield webhook
    finally:
        await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
