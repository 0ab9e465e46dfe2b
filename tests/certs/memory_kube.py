"""The API model as certificate managers meet it: late, in trouble, and seen at every change.

The same manager runs against a real API server in test_real_*.py.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from mpslice.kube.api import Json, Resource
from mpslice.kube.errors import KubeError
from tests.api.kube import Call, ModelKube
from tests.api.model import ApiModel


class MemoryKube(ModelKube):
    """`stamp` is what the API server notes of a write. `writes` are clients', `verb plural/name`.

    `faults` maps `verb plural` to an error that every such call then raises. `delays` says how many
    turns of the loop a call takes each way; `after_change` is called at each change.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.stamp: Callable[[], str] = lambda: f"{now():%Y-%m-%dT%H:%M:%SZ}"
        super().__init__(ApiModel(self.stamp))
        self.faults: dict[str, KubeError] = {}
        self.writes: list[str] = []
        self.delays: Callable[[], int] = lambda: 0
        self.after_change: Callable[[], None] = lambda: None
        self.api.on_change = lambda _plural, _entry: self.after_change()

    def put(self, resource: Resource, name: str, body: Json, namespace: str = "") -> None:
        """Stores an object, as somebody else would."""
        metadata = {**body.get("metadata", {}), "name": name}
        if namespace:
            metadata["namespace"] = namespace
        self.api.put(resource, {**body, "metadata": metadata})

    async def before(self, call: Call) -> None:
        await self._pause()
        fault = self.faults.get(f"{call.verb} {call.resource.plural}")
        if fault is not None:
            raise fault

    async def after(self, call: Call) -> None:
        if call.is_write:
            self.writes.append(f"{call.verb} {call.resource.plural}/{call.name}")
        else:
            await self._pause()

    async def _pause(self) -> None:
        for _ in range(self.delays()):
            await asyncio.sleep(0)
