"""An API server in memory that keeps to RBAC, and answers what a person may not do as a real one.

Lists come in pages and by selector, watches tell what is put and removed meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, PatchType, Query, Resource
from mpslice.kube.errors import Forbidden, NotFound

USER = "jane"


@dataclass(frozen=True, slots=True)
class Grant:
    """A right: on a resource's plural, of all namespaces where `namespace` is ""."""

    plural: str
    namespace: str = ""


ALL = (Grant("*"),)


def view(namespace: str) -> tuple[Grant, ...]:
    """What Kubernetes' role `view` grants, bound in one namespace."""
    kinds = ("pods", "events", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs")
    more = ("cronjobs", "persistentvolumeclaims")
    return tuple(Grant(kind, namespace) for kind in (*kinds, *more))


class FakeApi:
    """The objects by resource; `unknown` are plurals of kinds that are not installed."""

    def __init__(
        self,
        objects: Iterable[tuple[Resource, Json]] = (),
        grants: Iterable[Grant] = ALL,
        unknown: Iterable[str] = ("podgroups",),
    ) -> None:
        self.grants = tuple(grants)
        self.unknown = frozenset(unknown)
        self.namespace = "default"
        self.metrics: dict[str, str] = {}
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._log: list[tuple[str, Json]] = []
        self._changed = asyncio.Event()
        for resource, obj in objects:
            self.put(resource, obj)

    def put(self, resource: Resource, obj: Json) -> None:
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace") or "", metadata["name"])
        kind = "MODIFIED" if key in self._objects else "ADDED"
        self._objects[key] = obj
        self._tell(resource, kind, obj)

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        self._tell(resource, "DELETED", self._objects.pop((resource.plural, namespace, name)))

    def _tell(self, resource: Resource, kind: str, obj: Json) -> None:
        metadata = {**obj["metadata"], "resourceVersion": str(len(self._log) + 1)}
        self._log.append((resource.plural, {"type": kind, "object": {**obj, "metadata": metadata}}))
        self._changed.set()
        self._changed = asyncio.Event()

    def _check(self, verb: str, resource: Resource, namespace: str | None, sub: str = "") -> None:
        plural = f"{resource.plural}/{sub}" if sub else resource.plural
        if resource.plural in self.unknown:
            raise NotFound("GET: the server could not find the requested resource", status=404)
        for grant in self.grants:
            if grant.plural in ("*", plural) and grant.namespace in ("", namespace):
                return
        group = resource.api_version.partition("/")[0] if "/" in resource.api_version else ""
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise Forbidden(
            f'GET: {resource.plural} is forbidden: User "{USER}" cannot {verb} resource "{plural}" '
            f'in API group "{group}" {where}',
            status=403,
        )

    async def read(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        self._check("get", resource, namespace)
        found = self._objects.get((resource.plural, namespace or "", name))
        if found is None:
            raise NotFound(f'GET: {resource.plural} "{name}" not found', status=404)
        return found

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        self._check("list", resource, namespace)
        found = [
            obj
            for (plural, where, _), obj in sorted(self._objects.items(), key=lambda item: item[0])
            if plural == resource.plural and namespace in (None, where) and _selected(obj, query)
        ]
        start = int(query.get("continue") or 0)
        end = start + int(query.get("limit") or len(found) or 1)
        metadata: Json = {"resourceVersion": str(len(self._log))}
        if end < len(found):
            metadata["continue"] = str(end)
        return {"items": found[start:end], "metadata": metadata}

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        self._check("watch", resource, namespace)
        seen = int(query["resourceVersion"])
        while True:
            changed = self._changed
            for plural, told in self._log[seen:]:
                where = told["object"]["metadata"].get("namespace")
                if plural == resource.plural and namespace in (None, where):
                    yield told
            seen = len(self._log)
            await changed.wait()

    async def proxied_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        self._check("get", PODS, namespace, "proxy")
        if pod not in self.metrics:
            raise NotFound(f"GET: no answer of {pod}:{port}{path}", status=404)
        return self.metrics[pod]

    async def create(self, resource: Resource, body: Json, *, namespace: str | None = None) -> Json:
        raise AssertionError("nothing is written")

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json:
        raise AssertionError("nothing is written")

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
        raise AssertionError("nothing is written")

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
        raise AssertionError("nothing is written")


def _selected(obj: Json, query: Query) -> bool:
    uid = query.get("fieldSelector", "").removeprefix("involvedObject.uid=")
    if uid and (obj.get("involvedObject") or {}).get("uid") != uid:
        return False
    labels = obj["metadata"].get("labels") or {}
    wanted = [pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair]
    return all(labels.get(key) == value for key, value in wanted)


def cluster(
    *, nodes: Iterable[Json] = (), layouts: Iterable[Json] = (), pods: Iterable[Json] = ()
) -> list[tuple[Resource, Json]]:
    """The objects with their resources; each node shows the slices that its layout lists."""
    layouts = list(layouts)
    shown = {each["metadata"]["name"]: each for each in layouts}
    return [
        *((NODES, _showing(each, shown.get(each["metadata"]["name"]))) for each in nodes),
        *((NODE_LAYOUTS, each) for each in layouts),
        *((PODS, each) for each in pods),
    ]


def _showing(node: Json, layout: Json | None) -> Json:
    gpus = ((layout or {}).get("status") or {}).get("gpus") or ()
    sizes = Counter(f"nvidia.com/gpu-{each['size']}" for g in gpus for each in g.get("slices", ()))
    amounts = {**node["status"]["allocatable"], **{name: str(n) for name, n in sizes.items()}}
    return {**node, "status": {**node["status"], "allocatable": amounts, "capacity": amounts}}
