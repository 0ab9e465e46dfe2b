"""The API server in memory: objects, versions, conflicts, selectors, pages and watches.

Synchronous and deterministic; `kube.ModelKube` is the client of it. test_contract.py asks the model
and a real API server the same.
"""

import asyncio
import bisect
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mpslice.kube.api import Json, PatchType, Query, Resource
from mpslice.kube.errors import ApiError, Conflict, Gone, KubeError, NotFound
from tests.api.patching import copied, merge, patched
from tests.api.selecting import Predicate, selector

Name = tuple[str, str]
"""Namespace, "" for what is cluster-scoped, and name."""

_WITH_STATUS: Final = frozenset({"pods", "nodes", "nodelayouts"})
_COUNTED: Final = frozenset(
    {"pods", "nodelayouts", "mutatingwebhookconfigurations", "validatingwebhookconfigurations"}
)
"""Kinds whose `metadata.generation` counts the changes of what is wanted."""

_STAMPED: Final = frozenset({"pods", "secrets"})
"""Kinds whose `metadata.managedFields` say when they were last written; others' nobody reads."""

_CUSTOM: Final = frozenset({"nodelayouts"})
_CONDITIONAL: Final = _CUSTOM | {"leases"}  # a replacement has to name the version it replaces
_FIXED: Final = ("name", "namespace", "uid", "creationTimestamp", "generation")


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `old` is None for what is new, `new` for what is gone."""

    version: int
    name: Name
    old: Json | None
    new: Json | None


@dataclass(eq=False)
class Stream:
    """One watch: the events that its client has not had yet. `trouble` ends it."""

    plural: str
    namespace: str | None
    selects: Predicate
    version: int
    waiting: deque[Json] = field(default_factory=deque)
    trouble: KubeError | None = None
    _waiter: "asyncio.Future[None] | None" = None

    def push(self, entry: Entry) -> None:
        """Turns the change into what this watch sees of it.

        An object that is no longer selected is DELETED to it, as it was before (cacher.go,
        convertToWatchEvent).
        """
        self.version = entry.version
        if self.namespace not in (None, entry.name[0]):
            return
        before = entry.old if entry.old is not None and self.selects(entry.old) else None
        after = entry.new if entry.new is not None and self.selects(entry.new) else None
        if after is not None:
            self._put("ADDED" if before is None else "MODIFIED", after)
        elif before is not None:
            metadata = {**before["metadata"], "resourceVersion": str(entry.version)}
            self._put("DELETED", {**before, "metadata": metadata})

    def _put(self, kind: str, obj: Json) -> None:
        self.waiting.append({"type": kind, "object": obj})
        self.wake()

    def end(self, trouble: KubeError) -> None:
        """The stream breaks off, with what was still under way."""
        self.waiting.clear()
        self.trouble = trouble
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float | None) -> None:
        """Until there is something, or until that time of the event loop."""
        if self.waiting or self.trouble is not None:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_at(until, self.wake) if until is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


class ApiModel:
    """`clock` gives creationTimestamps. `on_change` sees every change when it is made."""

    def __init__(self, clock: Callable[[], str] = lambda: "2026-01-01T00:00:00Z") -> None:
        self.version = 100
        self.streams: list[Stream] = []
        self.on_change: Callable[[str, Entry], None] = lambda _plural, _entry: None
        self._clock = clock
        self._objects: defaultdict[str, dict[Name, Json]] = defaultdict(dict)
        self._log: defaultdict[str, list[Entry]] = defaultdict(list)
        self._compacted = self.version
        self._pages: dict[str, tuple[int, list[Json]]] = {}
        self._made = 0

    # What tests do, as somebody with every right: no rule of the kind is looked at.

    def put(self, resource: Resource, obj: Json) -> Json:
        """Creates or replaces an object, its status included."""
        obj = copied(obj)
        metadata = obj.setdefault("metadata", {})
        if resource.namespaced:
            metadata.setdefault("namespace", "default")
        name = metadata.get("namespace", ""), metadata["name"]
        old = self._objects[resource.plural].get(name)
        if old is None:
            self._stamp(resource, obj)
        else:
            metadata.update({k: v for k, v in old["metadata"].items() if k in _FIXED})
            self._count(resource, old, obj)
        return self._store(resource, name, old, obj)

    def change(self, resource: Resource, name: str, patch: Json, namespace: str = "") -> Json:
        """A merge patch of any part of the object."""
        return self.put(resource, merge(self.get(resource, name, namespace), patch))

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json:
        """The object; raises KeyError."""
        found: Json = copied(self._objects[resource.plural][namespace, name])
        return found

    def peek(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """The object itself, which is not to be changed; None where there is none."""
        return self._objects[resource.plural].get((namespace, name))

    def has(self, resource: Resource, name: str, namespace: str = "") -> bool:
        return (namespace, name) in self._objects[resource.plural]

    def all(self, resource: Resource) -> list[Json]:
        """Every object of the kind in the order in which they were made; not to be changed."""
        return list(self._objects[resource.plural].values())

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Deletes it at once, and what only it owned."""
        key = namespace, name
        old = self._objects[resource.plural].pop(key)
        self._record(resource.plural, key, old, None)
        self._collect(old["metadata"]["uid"])

    def compact(self) -> None:
        """Forgets every older version: who watches or pages on from one has to list anew."""
        self._compacted = self.version
        self._log.clear()
        self._pages.clear()

    def end_watches(self, trouble: KubeError) -> None:
        """Every watch breaks off."""
        for stream in list(self.streams):
            stream.end(trouble)

    # What clients do; each raises a KubeError.

    def read(self, resource: Resource, name: str, namespace: str | None) -> Json:
        return self._copy(self._existing(resource, name, namespace))

    def list_page(self, resource: Resource, namespace: str | None, query: Query) -> Json:
        selects = selector(resource, query)
        token = query.get("continue", "")
        if token and token not in self._pages:
            raise Gone("The provided continue parameter is too old", status=410, reason="Expired")
        if token:
            version, found = self._pages[token]
        else:
            version = self.version
            found = [
                obj
                for (where, _), obj in sorted(self._objects[resource.plural].items())
                if namespace in (None, where) and selects(obj)
            ]
        limit = int(query.get("limit") or 0) or len(found)
        metadata: Json = {"resourceVersion": str(version)}
        if len(found) > limit:
            metadata["continue"] = f"{version}-{self._number()}"
            self._pages[metadata["continue"]] = version, found[limit:]
        return {"metadata": metadata, "items": [copied(obj) for obj in found[:limit]]}

    def open(self, resource: Resource, namespace: str | None, query: Query) -> Stream:
        """A watch from a version on; without one, with every object as ADDED first."""
        selects = selector(resource, query)
        since = int(query.get("resourceVersion") or 0)
        if 0 < since < self._compacted:
            raise Gone(f"too old resource version: {since}", status=410, reason="Expired")
        stream = Stream(resource.plural, namespace, selects, since)
        if since:
            log = self._log[resource.plural]
            backlog: Iterable[Entry] = log[bisect.bisect(log, since, key=lambda e: e.version) :]
        else:
            there = sorted(self._objects[resource.plural].items())
            backlog = [Entry(self.version, name, None, obj) for name, obj in there]
        for entry in backlog:
            stream.push(entry)
        stream.version = self.version
        self.streams.append(stream)
        return stream

    def create(self, resource: Resource, body: Json, namespace: str | None) -> Json:
        obj = copied(body)
        metadata = obj["metadata"]
        if resource.namespaced:
            metadata["namespace"] = namespace or metadata.get("namespace") or "default"
        if "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}{self._number():05}"
        name = metadata.get("namespace", ""), metadata["name"]
        if name in self._objects[resource.plural]:
            text = f'{resource.plural} "{name[1]}" already exists'
            raise Conflict(text, status=409, reason="AlreadyExists")
        if resource.plural in _CUSTOM:
            obj.pop("status", None)
        if resource.plural == "pods":
            obj["status"] = _new_status(obj)
        if resource.plural in _STAMPED:
            metadata["managedFields"] = self._fields_set_now()
        self._stamp(resource, obj)
        return self._copy(self._store(resource, name, None, obj))

    def replace(self, resource: Resource, name: str, body: Json, namespace: str | None) -> Json:
        old = self._existing(resource, name, namespace)
        obj = copied(body)
        if "resourceVersion" not in obj["metadata"] and resource.plural in _CONDITIONAL:
            raise ApiError("resourceVersion must be specified", status=422, reason="Invalid")
        return self._update(resource, old, obj, None)

    def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        type: PatchType,
        namespace: str | None,
        subresource: str | None,
    ) -> Json:
        if type is PatchType.STRATEGIC and resource.plural in _CUSTOM:
            raise ApiError("no strategic patches of custom resources", status=415)
        old = self._existing(resource, name, namespace)
        return self._update(resource, old, patched(old, body, type), subresource)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        grace_seconds: int | None,
        uid: str,
        version: str,
    ) -> None:
        old = self._existing(resource, name, namespace)
        metadata = old["metadata"]
        _check_preconditions(metadata, uid, version)
        where = metadata.get("namespace", "")
        runs = resource.plural == "pods" and (old.get("spec") or {}).get("nodeName")
        if runs and grace_seconds != 0 and old["status"].get("phase") not in _ENDED:
            if "deletionTimestamp" not in metadata:
                going = {**metadata, "deletionTimestamp": self._clock()}
                self._store(resource, (where, name), old, {**old, "metadata": going})
        else:
            self.remove(resource, name, where)

    def bind(self, resource: Resource, name: str, namespace: str, node: str, uid: str) -> None:
        """The scheduler's binding of a pod (core/pod/storage, assignPod)."""
        old = self._existing(resource, name, namespace)
        spec, metadata = old["spec"], old["metadata"]
        _check_preconditions(metadata, uid, "")
        if spec.get("nodeName") or spec.get("schedulingGates") or metadata.get("deletionTimestamp"):
            raise _conflict(metadata, "it cannot be bound")
        conditions = [c for c in old["status"].get("conditions") or () if c["type"] != _SCHEDULED]
        status = {
            **{key: value for key, value in old["status"].items() if key != "nominatedNodeName"},
            "conditions": [*conditions, {"type": _SCHEDULED, "status": "True"}],
        }
        bound = {**old, "spec": {**spec, "nodeName": node}, "status": status}
        self._store(resource, (namespace, name), old, bound)

    # How.

    def _existing(self, resource: Resource, name: str, namespace: str | None) -> Json:
        found = self._objects[resource.plural].get((namespace or "", name))
        if found is None:
            text = f'{resource.plural} "{name}" not found'
            raise NotFound(text, status=404, reason="NotFound")
        return found

    def _update(self, resource: Resource, old: Json, new: Json, subresource: str | None) -> Json:
        """What the kind's strategy leaves of a write; what changes nothing is not written."""
        _check_same(old["metadata"], new["metadata"])
        plural = resource.plural
        if subresource == "status":
            if plural in _CUSTOM:
                new = {**old, "status": new.get("status") or {}}
            else:
                new = {**new, "spec": old.get("spec") or {}}
        elif plural in _WITH_STATUS:
            new = {key: value for key, value in new.items() if key != "status"}
            new |= {"status": old["status"]} if "status" in old else {}
        if plural == "pods" and subresource is None:
            _check_spec(old["spec"], new["spec"])
        metadata = {k: v for k, v in _without_empty(new["metadata"]).items() if k not in _FIXED}
        fixed = {key: old["metadata"][key] for key in _FIXED if key in old["metadata"]}
        new = {**new, "metadata": {**metadata, **fixed}}
        if new == old:
            return self._copy(old)
        if plural in _STAMPED and subresource is None:
            new["metadata"]["managedFields"] = self._fields_set_now()
        self._count(resource, old, new)
        name = old["metadata"].get("namespace", ""), old["metadata"]["name"]
        return self._copy(self._store(resource, name, old, new))

    def _stamp(self, resource: Resource, obj: Json) -> None:
        metadata = obj["metadata"] = _without_empty(obj["metadata"])
        metadata.setdefault("uid", f"uid-{self._number()}")
        metadata.setdefault("creationTimestamp", self._clock())
        if resource.plural in _COUNTED:
            metadata.setdefault("generation", 1)

    def _count(self, resource: Resource, old: Json, new: Json) -> None:
        if resource.plural in _COUNTED and _wanted(old) != _wanted(new):
            new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1

    def _store(self, resource: Resource, name: Name, old: Json | None, new: Json) -> Json:
        new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self.version + 1)}}
        self._objects[resource.plural][name] = new
        self._record(resource.plural, name, old, new)
        return new

    def _record(self, plural: str, name: Name, old: Json | None, new: Json | None) -> None:
        self.version += 1
        entry = Entry(self.version, name, old, new)
        self._log[plural].append(entry)
        for stream in self.streams:
            if stream.plural == plural:
                stream.push(entry)
        self.on_change(plural, entry)

    def _collect(self, uid: str) -> None:
        """The garbage collector: what had this owner alone goes with it."""
        for plural, objects in self._objects.items():
            for (namespace, name), obj in list(objects.items()):
                owners = obj["metadata"].get("ownerReferences") or ()
                if owners and all(owner["uid"] == uid for owner in owners):
                    self.remove(Resource("", plural), name, namespace)

    def _fields_set_now(self) -> list[Json]:
        """When the object itself was last written, its status apart."""
        return [{"manager": "model", "operation": "Update", "time": self._clock()}]

    def _number(self) -> int:
        self._made += 1
        return self._made

    def _copy(self, obj: Json) -> Json:
        result: Json = copied(obj)
        return result


_ENDED: Final = frozenset({"Succeeded", "Failed"})
_SCHEDULED: Final = "PodScheduled"


def _wanted(obj: Json) -> Json:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _without_empty(metadata: Json) -> Json:
    return {k: v for k, v in metadata.items() if v or k not in ("labels", "annotations")}


def _check_same(old: Json, given: Json) -> None:
    """That a write is of the version and of the object that its sender knew (store.go, Update)."""
    if given.get("resourceVersion", old["resourceVersion"]) != old["resourceVersion"]:
        raise _conflict(old, "the object has been modified")
    if given.get("uid", old["uid"]) != old["uid"]:
        raise ApiError("metadata.uid: field is immutable", status=422, reason="Invalid")


def _check_preconditions(old: Json, uid: str, version: str) -> None:
    if uid not in ("", old["uid"]) or version not in ("", old["resourceVersion"]):
        raise _conflict(old, "Precondition failed")


def _conflict(old: Json, why: str) -> Conflict:
    return Conflict(f"{old['name']}: {why}", status=409, reason="Conflict")


def _check_spec(old: Json, new: Json) -> None:
    """Of a pod's spec gates may go, and hardly anything else may change (validation.go)."""
    gates = [gate["name"] for gate in old.get("schedulingGates") or ()]
    left = [gate["name"] for gate in new.get("schedulingGates") or ()]
    others = [{k: v for k, v in spec.items() if k != "schedulingGates"} for spec in (old, new)]
    if not set(left) <= set(gates) or others[0] != others[1]:
        raise ApiError("pod updates may not change other fields", status=422, reason="Invalid")


def _new_status(pod: Json) -> Json:
    if not pod["spec"].get("schedulingGates"):
        return {"phase": "Pending"}
    gated = {"type": _SCHEDULED, "status": "False", "reason": "SchedulingGated"}
    return {"phase": "Pending", "conditions": [gated]}
