"""Workloads as the pods that their controllers would make, less those that exist already."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from cli.manifests import Manifest
from planner.feasibility.nodes import node_refusal
from planner.model import Node
from planner.state.parse import parse_pod

Json = dict[str, Any]

KINDS: Final = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "Job", "DaemonSet"})
_MOST_PODS: Final = 100_000  # of one workload; more is a slip of the finger
_FINISHED: Final = frozenset({"Succeeded", "Failed"})

# What the DaemonSet controller adds (pkg/controller/daemon/util/daemonset_util.go).
_DAEMON_TAINTS: Final = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)

Owner = tuple[str, str, str]
"""Kind, namespace, name."""


def expand(
    workloads: Iterable[Manifest], pods: Iterable[Manifest], nodes: Iterable[Node]
) -> Iterator[Manifest]:
    """The pods that are still to be made, as Pod manifests that point at their workload.

    Raises UnusableInput for a workload that has no pod template or a negative count.
    """
    workloads = list(workloads)
    nodes = tuple(nodes)
    pods = list(pods)
    names = {(_namespace(pod.obj), pod.obj["metadata"]["name"]) for pod in pods}
    children = _owned(workloads, pods)
    for workload in workloads:
        if _controller(workload.obj) is not None and workload.kind == "ReplicaSet":
            continue  # its Deployment stands for it
        mine = children.get(_identity(workload.obj), [])
        if workload.kind == "DaemonSet":
            yield from _daemons(workload, mine, nodes)
        else:
            count = _wanted(workload, mine) - sum(1 for pod in mine if not _is_finished(pod))
            yield from _replicas(workload, count, names)


def _replicas(workload: Manifest, count: int, names: set[tuple[str, str]]) -> Iterator[Manifest]:
    namespace = _namespace(workload.obj)
    index = 0
    while count > 0:
        name = f"{workload.obj['metadata']['name']}-{index}"
        index += 1
        if (namespace, name) not in names:
            count -= 1
            names.add((namespace, name))
            yield _pod(workload, name)


def _daemons(workload: Manifest, mine: Iterable[Json], nodes: Iterable[Node]) -> Iterator[Manifest]:
    has_one = {(pod.get("spec") or {}).get("nodeName") for pod in mine}
    for index, node in enumerate(sorted(nodes, key=lambda node: node.name)):
        pod = _pod(workload, f"{workload.obj['metadata']['name']}-{index}")
        _pin(pod.obj["spec"], node.name)
        if node.name not in has_one and _is_eligible(pod.obj, node):
            yield pod


def _is_eligible(pod: Json, node: Node) -> bool:
    return node_refusal(parse_pod(pod).constraints, replace(node, ready=True)) is None


def _pin(spec: Json, node: str) -> None:
    """Ties a daemon's pod to its node as the controller does: by affinity, not by nodeName."""
    tolerations = [
        {"key": key, "operator": "Exists", "effect": effect} for key, effect in _DAEMON_TAINTS
    ]
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *tolerations]
    here = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    affinity = dict(spec.get("affinity") or {})
    node_affinity = dict(affinity.get("nodeAffinity") or {})
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [{**term, "matchFields": here} for term in terms]
    }
    spec["affinity"] = {**affinity, "nodeAffinity": node_affinity}


def _pod(workload: Manifest, name: str) -> Manifest:
    template = (workload.obj.get("spec") or {}).get("template")
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise workload.complaint("has no spec.template.spec", ("spec",))
    metadata = {
        "labels": (template.get("metadata") or {}).get("labels") or {},
        "annotations": (template.get("metadata") or {}).get("annotations") or {},
        "namespace": _namespace(workload.obj),
        "name": name,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": dict(template["spec"]),
    }
    return Manifest(pod, workload.source, workload.at)


def _wanted(workload: Manifest, mine: Iterable[Json]) -> int:
    if workload.kind != "Job":
        return count_of(workload, "replicas", 1)
    parallelism = count_of(workload, "parallelism", 1)
    if "completions" not in (workload.obj.get("spec") or {}):
        return parallelism
    done = Counter((pod.get("status") or {}).get("phase") for pod in mine)["Succeeded"]
    return min(parallelism, max(0, count_of(workload, "completions", 1) - done))


def count_of(manifest: Manifest, field: str, default: int) -> int:
    """A count in an object's spec; raises UnusableInput when it is none."""
    value = (manifest.obj.get("spec") or {}).get(field)
    if value is None:
        return default
    if not 0 <= value <= _MOST_PODS:
        message = f"spec.{field} is {value}; write a whole number from 0 to {_MOST_PODS}"
        raise manifest.complaint(message, ("spec", field))
    return int(value)


def _owned(workloads: Iterable[Manifest], pods: Iterable[Manifest]) -> Mapping[Owner, list[Json]]:
    """The pods of each workload; those of a ReplicaSet count for its Deployment."""
    above: dict[Owner, Owner] = {}
    known = {_identity(workload.obj) for workload in workloads}
    for workload in workloads:
        controller = _controller(workload.obj)
        if controller is not None:
            above[_identity(workload.obj)] = controller
    owned: dict[Owner, list[Json]] = {}
    for pod in pods:
        owner = _controller(pod.obj)
        if owner is not None:
            owner = above.get(owner) or _deployment_of(owner, pod.obj, known) or owner
            owned.setdefault(owner, []).append(pod.obj)
    return owned


def _deployment_of(owner: Owner, pod: Json, known: set[Owner]) -> Owner | None:
    """The Deployment of a ReplicaSet that is not in the input: its name less the template hash."""
    kind, namespace, name = owner
    hash_ = (pod["metadata"].get("labels") or {}).get("pod-template-hash")
    deployment = ("Deployment", namespace, name.removesuffix(f"-{hash_}"))
    return deployment if kind == "ReplicaSet" and hash_ and deployment in known else None


def _controller(obj: Json) -> Owner | None:
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("kind")), _namespace(obj), str(reference.get("name"))
    return None


def _identity(obj: Json) -> Owner:
    return obj["kind"], _namespace(obj), obj["metadata"]["name"]


def _namespace(obj: Json) -> str:
    return obj["metadata"].get("namespace") or "default"


def _is_finished(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in _FINISHED
