"""An API server in memory: named objects, resource versions with conflicts, watches, and faults.

It stands at the `Kube` seam; the same manager runs against a real one in test_real_*.py.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import jsonpatch

from mpslice.kube.api import Json, PatchType, Query, Resource
from mpslice.kube.errors import Conflict, KubeError, NotFound


class MemoryKube:
    """`faults` maps `verb plural` to an error that every such call then raises.

    `delays` says how many turns of the loop a call takes each way; `after_write` sees each write.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.faults: dict[str, KubeError] = {}
        self.writes: list[str] = []
        self.delays: Callable[[], int] = lambda: 0
        self.after_write: Callable[[], None] = lambda: None
        self._version = 0
        self._watchers: list[tuple[str, str, asyncio.Queue[Json]]] = []

    def put(self, resource: Resource, name: str, body: Json) -> Json:
        """Stores an object, as somebody else would."""
        known = (resource.plural, name) in self.objects
        return self._store(resource, name, body, "MODIFIED" if known else "ADDED")

    def remove(self, resource: Resource, name: str) -> None:
        """Deletes an object, as somebody else would."""
        self._announce(resource, name, "DELETED", self.objects.pop((resource.plural, name)))

    async def read(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        await self._reach("read", resource)
        found = copy.deepcopy(self._get(resource, name))
        await self._pause()
        return found

    async def create(self, resource: Resource, body: Json, *, namespace: str | None = None) -> Json:
        await self._reach("create", resource)
        name = body["metadata"]["name"]
        if (resource.plural, name) in self.objects:
            raise Conflict(f"{name} exists", status=409)
        self.writes.append(f"create {resource.plural}/{name}")
        return self._store(resource, name, body, "ADDED")

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json:
        raise NotImplementedError("nothing here replaces")

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
        await self._reach("patch", resource)
        stored = self._get(resource, name)
        if isinstance(body, list):
            assert type is PatchType.JSON
            patched = jsonpatch.apply_patch(stored, body)
        else:
            assert type is PatchType.MERGE
            patched = _merged(copy.deepcopy(stored), body)
        if patched["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"]:
            raise Conflict(f"{name} has been modified", status=409)
        self.writes.append(f"patch {resource.plural}/{name}")
        return self._store(resource, name, patched, "MODIFIED")

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        grace_seconds: int | None = None,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        assert not uid
        assert not resource_version
        self.remove(resource, name)

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        await self._reach("list", resource)
        found = self.objects.get((resource.plural, _selected(query)))
        items = [copy.deepcopy(found)] if found else []
        return {"metadata": {"resourceVersion": str(self._version)}, "items": items}

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        events: asyncio.Queue[Json] = asyncio.Queue()
        self._watchers.append((resource.plural, _selected(query), events))
        while True:
            yield await events.get()

    def _get(self, resource: Resource, name: str) -> Json:
        try:
            return self.objects[resource.plural, name]
        except KeyError:
            raise NotFound(f"{resource.plural}/{name} not found", status=404) from None

    def _store(self, resource: Resource, name: str, body: Json, event: str) -> Json:
        self._version += 1
        stored = copy.deepcopy(body)
        stored.setdefault("metadata", {})["name"] = name
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.objects[resource.plural, name] = stored
        self._announce(resource, name, event, stored)
        self.after_write()
        return copy.deepcopy(stored)

    def _announce(self, resource: Resource, name: str, event: str, obj: Json) -> None:
        for plural, wanted, events in self._watchers:
            if (plural, wanted) == (resource.plural, name):
                events.put_nowait({"type": event, "object": copy.deepcopy(obj)})

    async def _pause(self) -> None:
        for _ in range(self.delays()):
            await asyncio.sleep(0)

    async def _reach(self, verb: str, resource: Resource) -> None:
        await self._pause()
        fault = self.faults.get(f"{verb} {resource.plural}")
        if fault is not None:
            raise fault


def _selected(query: Query) -> str:
    return query["fieldSelector"].removeprefix("metadata.name=")


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = _merged(target.get(key), value)
    return target
