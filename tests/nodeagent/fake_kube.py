"""An API server in memory behind the `Kube` seam: versions, watches, selectors, merge patches.

What is tested against it runs against the real one too (`real/test_node.py`); this one can be away,
and tells what was written when.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpslice.kube.api import Json, PatchType, Query, Resource
from mpslice.kube.errors import Conflict, Gone, NotFound, Unreachable

Key = tuple[str, str, str]


@dataclass
class FakeKube:
    """`writes` are the patches of others than the test, in their order."""

    away: bool = False
    writes: list[tuple[str, Json]] = field(default_factory=list)
    on_write: Callable[[str, Json], None] = lambda _plural, _body: None
    on_call: Callable[[], None] = lambda: None
    closed: bool = False
    _objects: dict[Key, Json] = field(default_factory=dict)
    _events: list[tuple[int, Resource, Json]] = field(default_factory=list)
    _version: int = 100
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        self.closed = True

    # What tests do.

    def put(self, resource: Resource, obj: Json) -> Json:
        """Creates or replaces an object; a NodeLayout's generation counts specs."""
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        before = self._objects.get(key)
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault("uid", f"uid-{metadata['name']}-{self._version}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        if before is None:
            metadata["generation"] = 1
        elif before.get("spec") != obj.get("spec"):
            metadata["generation"] = before["metadata"]["generation"] + 1
        self._objects[key] = obj
        self._tell(resource, "ADDED" if before is None else "MODIFIED", obj)
        return obj

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json:
        return self._objects[resource.plural, namespace, name]

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        obj = self._objects.pop((resource.plural, namespace, name))
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._tell(resource, "DELETED", obj)

    def change(self, resource: Resource, name: str, patch: Json, namespace: str = "") -> Json:
        obj = copy.deepcopy(self.get(resource, name, namespace))
        return self.put(resource, _merge(obj, patch))

    def _tell(self, resource: Resource, kind: str, obj: Json) -> None:
        self._events.append((self._version, resource, {"type": kind, "object": copy.deepcopy(obj)}))
        self._changed.set()
        self._changed = asyncio.Event()

    def cut_watches(self) -> None:
        """Every watch in progress fails at its next look."""
        self._changed.set()
        self._changed = asyncio.Event()

    # The seam.

    async def _answer(self) -> None:
        self.on_call()
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("the API server is away")

    async def read(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        await self._answer()
        try:
            return copy.deepcopy(self._objects[resource.plural, namespace or "", name])
        except KeyError:
            raise NotFound(f"{resource.plural} {name}", status=404) from None

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        await self._answer()
        items = [
            copy.deepcopy(obj)
            for (plural, _, _), obj in self._objects.items()
            if plural == resource.plural and _selected(obj, query)
        ]
        return {"metadata": {"resourceVersion": str(self._version)}, "items": items}

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        await self._answer()
        sent = int(query["resourceVersion"])
        if sent > self._version:
            raise Gone("too new", status=410)
        while True:
            changed = self._changed
            for version, about, event in list(self._events):
                if version > sent:
                    sent = version
                    if about == resource and _selected(event["object"], query):
                        yield copy.deepcopy(event)
            await changed.wait()
            await self._answer()

    async def create(self, resource: Resource, body: Json, *, namespace: str | None = None) -> Json:
        await self._answer()
        key = (resource.plural, namespace or "", body["metadata"]["name"])
        if key in self._objects:
            raise Conflict("it exists", status=409)
        return self.put(resource, copy.deepcopy(body))

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json:
        await self._answer()
        return self.put(resource, copy.deepcopy(body))

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
        await self._answer()
        assert type is PatchType.MERGE
        assert isinstance(body, dict)
        if (resource.plural, namespace or "", name) not in self._objects:
            raise NotFound(f"{resource.plural} {name}", status=404)
        self.on_write(resource.plural, body)
        self.writes.append((resource.plural, body))
        return copy.deepcopy(self.change(resource, name, body, namespace or ""))

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
        await self._answer()
        self.remove(resource, name, namespace or "")


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _selected(obj: Json, query: Query) -> bool:
    terms = [term for term in query.get("fieldSelector", "").split(",") if term]
    return all(_field(obj, term.partition("=")[0]) == term.partition("=")[2] for term in terms)


def _field(obj: Json, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = (value or {}).get(part)
    return str(value or "")
