"""An API server that fails when it hurts, put between a planner and the real one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from mpslice.kube.api import EVENTS, Json, Kube, PatchType, Query, Resource

Send = Callable[[], Awaitable[Json]]


class Tampered:
    """The real API server, but for what `tamper` does before or after a write; Events pass."""

    def __init__(self, kube: Kube) -> None:
        self.writes = 0
        self._kube = kube

    async def tamper(self, send: Send, resource: Resource, body: object) -> Json:
        """Sends the write, or not."""
        return await send()

    async def _write(self, resource: Resource, body: object, send: Send) -> Json:
        if resource is EVENTS:
            return await send()
        self.writes += 1
        return await self.tamper(send, resource, body)

    async def read(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        return await self._kube.read(resource, name, namespace=namespace)

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        return await self._kube.list_page(resource, namespace=namespace, query=query)

    def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        return self._kube.watch(resource, namespace=namespace, query=query)

    async def create(self, resource: Resource, body: Json, *, namespace: str | None = None) -> Json:
        return await self._write(
            resource, body, lambda: self._kube.create(resource, body, namespace=namespace)
        )

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json:
        return await self._write(
            resource, body, lambda: self._kube.replace(resource, name, body, namespace=namespace)
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        *,
        type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        def send() -> Awaitable[Json]:
            return self._kube.patch(
                resource, name, body, type=type, namespace=namespace, subresource=subresource
            )

        return await self._write(resource, body, send)

    async def delete(self, resource: Resource, name: str, **options: Any) -> None:
        async def send() -> Json:
            await self._kube.delete(resource, name, **options)
            return {}

        await self._write(resource, None, send)


class Crash(Tampered):
    """The planner's process ends before it gets the answer to the write of this number."""

    def __init__(self, kube: Kube, number: int) -> None:
        super().__init__(kube)
        self.ended = asyncio.Event()
        self._number = number

    async def tamper(self, send: Send, resource: Resource, body: object) -> Json:
        if self.writes == self._number:
            await send()
        if self.writes >= self._number:
            self.ended.set()
            await asyncio.Event().wait()
        return await send()


class Line:
    """A TCP connection to the API server through this process, which can be cut or go dead."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._host, self._port = target.hostname, target.port
        self._pairs: set[asyncio.Task[None]] = set()
        self._whole = asyncio.Event()
        self._whole.set()
        self._cut = False

    def cut(self) -> None:
        """Every connection breaks, and no new one lasts."""
        self._cut = True
        for task in self._pairs:
            task.cancel()

    def go_dead(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._whole.clear()

    def mend(self) -> None:
        """All is well again."""
        self._cut = False
        self._whole.set()

    @asynccontextmanager
    async def laid(self, kubeconfig: Path, folder: Path) -> AsyncIterator[Path]:
        """A kubeconfig in `folder` that leads through the line."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield _redirected(kubeconfig, folder, server.sockets[0].getsockname()[1])
        finally:
            server.close()
            self.cut()
            if self._pairs:
                await asyncio.wait(self._pairs)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        try:
            if not self._cut:
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pairs.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far_writer))
                tasks.create_task(self._pass(far_reader, writer))
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


def _redirected(kubeconfig: Path, folder: Path, port: int) -> Path:
    config = yaml.safe_load(kubeconfig.read_text())
    for cluster in config["clusters"]:
        cluster["cluster"]["server"] = f"https://127.0.0.1:{port}"
    path = folder / "line.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
