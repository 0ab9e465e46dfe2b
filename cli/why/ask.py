"""Finds the object that is asked about and what belongs to it; the pure modules answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.connect import is_name
from cli.connect import name as object_name
from cli.errors import UnusableInput
from cli.observe import Observer, judged
from cli.rights import Denied, denied, granting, sentence
from cli.why.answer import Answer, Told
from cli.why.nodes import about_node
from cli.why.pods import Insight, about_pod
from cli.why.workloads import Rules, Workload, about_workload
from mpslice.kube.api import EVENTS, NODES, PODS, Json, Kube, Resource, list_all
from mpslice.kube.errors import Forbidden, KubeError, NotFound
from webhook.main import settings_of
from webhook.settings import Settings

_KINDS: Final[dict[str, Resource]] = {
    "Pod": PODS,
    "Node": NODES,
    "Deployment": Resource("apps/v1", "deployments", namespaced=True),
    "ReplicaSet": Resource("apps/v1", "replicasets", namespaced=True),
    "StatefulSet": Resource("apps/v1", "statefulsets", namespaced=True),
    "DaemonSet": Resource("apps/v1", "daemonsets", namespaced=True),
    "Job": Resource("batch/v1", "jobs", namespaced=True),
    "CronJob": Resource("batch/v1", "cronjobs", namespaced=True),
}
_SHORT: Final = {
    "po": "Pod",
    "no": "Node",
    "deploy": "Deployment",
    "rs": "ReplicaSet",
    "sts": "StatefulSet",
    "ds": "DaemonSet",
    "cj": "CronJob",
}
_CHILDREN: Final = {"Deployment": "ReplicaSet", "CronJob": "Job"}
_MOST_EVENTS: Final = 6
_WEBHOOKS: Final = "app.kubernetes.io/name=mpslice,app.kubernetes.io/component=webhook"


@dataclass(frozen=True, slots=True)
class Target:
    """The object that is asked about; `kind` is "" for a bare name."""

    kind: str
    name: str


def target(text: str) -> Target:
    """Reads `NAME` or `kind/NAME`, as kubectl writes it; raises ValueError for another text."""
    kind, slash, name = text.rpartition("/")
    found = _kind(kind)
    if slash and not found:
        known = ", ".join(each.lower() for each in _KINDS)
        text = f"has an unknown kind; write NAME or KIND/NAME, where KIND is one of {known}"
        if is_name(kind) and is_name(name):
            text += f"; if {kind} is a namespace, write {name} --namespace={kind}"
        raise ValueError(text)
    return Target(found, object_name(name))


def _kind(text: str) -> str:
    word = text.lower().partition(".")[0]
    plain = {kind.lower(): kind for kind in _KINDS}
    plurals = {resource.plural: kind for kind, resource in _KINDS.items()}
    return {**plain, **plurals, **_SHORT}.get(word, "")


class NotThere(UnusableInput):
    """No object of the name is visible."""


async def ask(kube: Kube, observer: Observer, wanted: Target, namespace: str) -> Answer:
    """Answers. Raises NotThere, UnusableInput, and a KubeError where the cluster fails."""
    observed = await observer.look()
    insight = Insight.of(observed, judged(observed))
    kind, raw = await _find(kube, wanted, namespace)
    if kind == "Pod":
        return about_pod(raw, await _events(kube, raw, namespace), insight)
    if kind == "Node":
        return about_node(raw, await _events(kube, raw, "default"), insight)
    workload, rules = await asyncio.gather(
        _workload(kube, kind, raw, namespace), _rules(kube, insight)
    )
    return about_workload(workload, rules, insight)


async def _find(kube: Kube, wanted: Target, namespace: str) -> tuple[str, Json]:
    """The kind and the object; a bare name is a pod's, else a node's, else a workload's."""
    tried = [wanted.kind] if wanted.kind else list(_KINDS)
    hidden: list[Denied] = []
    for kind in tried:
        resource = _KINDS[kind]
        where = namespace if resource.namespaced else None
        try:
            return kind, await kube.read(resource, wanted.name, namespace=where)
        except NotFound:
            continue
        except Forbidden as error:
            hidden.append(denied(error, "get", resource, where or ""))
    raise NotThere(_not_there(wanted, namespace, hidden))


def _not_there(wanted: Target, namespace: str, hidden: Sequence[Denied]) -> str:
    if not wanted.kind:
        what = f"no pod, node or workload is called {wanted.name}"
        where = f" in namespace {namespace}"
    else:
        what = f"there is no {wanted.kind.lower()} {wanted.name}"
        where = f" in namespace {namespace}" if _KINDS[wanted.kind].namespaced else ""
    if hidden:
        grants = " && ".join(granting(hidden))
        consequence = f"an administrator grants it with {grants}"
        return f"{what} that you may see{where}; {sentence(hidden, consequence)}"
    if wanted.kind not in ("", "Pod"):
        return f"{what}{where}"
    return (
        f"{what}{where}; a pod that admission refused is not stored: "
        "`kubectl mpslice plan -f FILE` says what is wrong with it"
    )


async def _events(kube: Kube, raw: Json, namespace: str) -> list[Told]:
    """The newest Events about the object, the newest last; none where they may not be listed."""
    metadata = raw["metadata"]
    # An Event on a node that the kubelet or an agent writes has the node's name as its uid.
    uids = {str(metadata.get("uid"))} | (
        {metadata["name"]} if "namespace" not in metadata else set()
    )
    found: list[Told] = []
    for uid in sorted(uids):
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        try:
            events = await list_all(kube, EVENTS, namespace=namespace, query=query)
        except Forbidden:
            return []
        found += map(_told, events)
    return sorted(found, key=_in_order)[-_MOST_EVENTS:]


def _in_order(told: Told) -> tuple[str, str, str]:
    """Sort key: the older first, and what was told within one second always the same way."""
    return told.at, told.source, told.message


def _told(event: Json) -> Told:
    series = event.get("series") or {}
    at = (
        series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
    )
    source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
    message = f"{event.get('reason')}: {event.get('message')}"
    return Told(f"event of {source}" if source else "event", message, str(at))


async def _workload(kube: Kube, kind: str, raw: Json, namespace: str) -> Workload:
    child = _CHILDREN.get(kind)
    children = await _owned(kube, _KINDS[child], raw, namespace) if child else []
    parents = [raw, *children]
    owned = await _list(kube, PODS, namespace)
    uids = {parent["metadata"].get("uid") for parent in parents}
    pods = [pod for pod in owned if _owner(pod) in uids]
    told = [event for each in parents for event in await _events(kube, each, namespace)]
    told.sort(key=_in_order)
    return Workload(kind, raw, children, pods, told[-_MOST_EVENTS:])


async def _owned(kube: Kube, resource: Resource, parent: Json, namespace: str) -> list[Json]:
    uid = parent["metadata"].get("uid")
    found = [each for each in await _list(kube, resource, namespace) if _owner(each) == uid]
    # A Deployment keeps old ReplicaSets at 0: what is asked about is the one that is to be.
    newest = [each for each in found if (each.get("spec") or {}).get("replicas") != 0]
    return newest or found


async def _list(kube: Kube, resource: Resource, namespace: str) -> list[Json]:
    try:
        return await list_all(kube, resource, namespace=namespace)
    except Forbidden:
        return []


def _owner(obj: Json) -> Any:
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return reference.get("uid")
    return None


async def _rules(kube: Kube, insight: Insight) -> Rules:
    """Reads the settings of this cluster's webhook from its Deployment, where that is visible."""
    layouts = insight.observed.layouts or {}
    gpus = [g for layout in layouts.values() if layout.status for g in layout.status.gpus]
    largest = max((gpu.capacity_gb for gpu in gpus), default=None)
    try:
        query = {"labelSelector": _WEBHOOKS}
        found = await list_all(kube, _KINDS["Deployment"], query=query)
    except KubeError:
        found = []
    for deployment in found:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            if container.get("args"):
                return Rules(settings_of(container["args"]), largest, known=True)
    return Rules(Settings(), largest)
