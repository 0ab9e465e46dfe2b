"""The API model as the agent's tests need it: it can be away, and tells what was written when.

What is tested against it runs against a real API server too (`real/test_node.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from mpslice.kube.api import Json, Query, Resource
from mpslice.kube.errors import Cut, Unreachable
from tests.api.kube import Call, ModelKube


class FakeKube(ModelKube):
    """`writes` are the patches of others than the test, in their order; `on_call` sees every
    request and every event of a watch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.closed = False
        self.writes: list[tuple[str, Json]] = []
        self.on_write: Callable[[str, Json], None] = lambda _plural, _body: None
        self.on_call: Callable[[], None] = lambda: None
        self.put, self.get = self.api.put, self.api.get
        self.change, self.remove = self.api.change, self.api.remove

    async def close(self) -> None:
        self.closed = True

    def cut_watches(self) -> None:
        """Every watch in progress fails."""
        self.api.end_watches(Cut("the API server is away"))

    async def before(self, call: Call) -> None:
        await self._answer()
        if call.verb == "patch" and self.api.has(call.resource, call.name, call.namespace):
            self.on_write(call.resource.plural, call.body)
            self.writes.append((call.resource.plural, call.body))

    async def _answer(self) -> None:
        self.on_call()
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("the API server is away")

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        async for event in super().watch(resource, namespace=namespace, query=query):
            await self._answer()
            yield event
