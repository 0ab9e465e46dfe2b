"""Workloads as the pods that their controllers would make, less those that exist already."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cli.reading.inventory import Notice
from cli.reading.manifests import Manifest
from planner.feasibility.nodes import node_refusal
from planner.model.nodes import Node
from planner.state.parse import parse_pod

Json = dict[str, Any]

_MOST_PODS: Final = 100_000  # of one workload; more is a slip of the finger
_FINISHED: Final = frozenset({"Succeeded", "Failed"})

_ENDS: Final = frozenset({"Complete", "Failed"})

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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod to judge. `owner` is its workload's `namespace/name`, "" for a bare pod; candidates
    with the same `template` above 0 differ in their names alone."""

    manifest: Manifest
    owner: str = ""
    template: int = 0


def expand(
    workloads: Sequence[Manifest], pods: Sequence[Manifest], nodes: Iterable[Node]
) -> Iterator[Candidate]:
    """The pods that are still to be made, as Pod manifests that point at their workload.

    Raises UnusableInput for a workload that has no pod template or a negative count.
    """
    nodes = tuple(nodes)
    names = {(_namespace(pod.obj), pod.obj["metadata"]["name"]) for pod in pods}
    children = _owned(workloads, pods)
    jobs = (each for each in workloads if each.kind == "Job")
    running = {_controller(job.obj) for job in jobs if not (is_suspended(job) or _is_done(job))}
    for number, workload in enumerate(workloads, start=1):
        if _makes_none(workload, running):
            continue
        mine = children.get(_identity(workload.obj), [])
        if workload.kind == "DaemonSet":
            yield from _daemons(workload, mine, nodes)
        else:
            count = _wanted(workload, mine) - sum(1 for pod in mine if not _is_finished(pod))
            yield from _replicas(workload, count, names, number)


def owners(workloads: Iterable[Manifest], pods: Iterable[Manifest]) -> dict[str, str]:
    """The `namespace/name` of the workload of each pod that has one, by the pod's key."""
    found: dict[str, str] = {}
    for (_, namespace, name), mine in _owned(list(workloads), pods).items():
        for pod in mine:
            own = pod["metadata"]
            hash_ = (own.get("labels") or {}).get("pod-template-hash")
            short = name.removesuffix(f"-{hash_}") if hash_ else name
            found[f"{_namespace(pod)}/{own['name']}"] = f"{namespace}/{short}"
    return found


def suspended(workloads: Iterable[Manifest]) -> Iterator[Notice]:
    """A notice for each workload that has no pods because it is suspended."""
    for each in workloads:
        if is_suspended(each) and not each.is_stored:
            text = "is suspended (spec.suspend: true): no pod of it is planned"
            yield Notice(each.name, "Suspended", text)


def is_suspended(workload: Manifest) -> bool:
    """Whether a Job or CronJob makes no pods for now."""
    return (workload.obj.get("spec") or {}).get("suspend") is True


def _makes_none(workload: Manifest, running: set["Owner | None"]) -> bool:
    """Whether it makes no pods: its Deployment or running Job does, or it has finished."""
    if workload.kind == "ReplicaSet":
        return _controller(workload.obj) is not None
    if workload.kind == "CronJob" and _identity(workload.obj) in running:
        return True
    return is_suspended(workload) or _is_done(workload)


def _is_done(workload: Manifest) -> bool:
    """Whether a Job has finished; its pods may be gone."""
    status = workload.obj.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    return workload.kind == "Job" and any(
        each.get("type") in _ENDS and each.get("status") == "True" for each in conditions or ()
    )


def template_path(kind: str) -> tuple[str, ...]:
    """Where a workload of the kind has its pod template."""
    inner = ("spec", "template")
    return ("spec", "jobTemplate", *inner) if kind == "CronJob" else inner


def _replicas(
    workload: Manifest, count: int, names: set[tuple[str, str]], number: int
) -> Iterator[Candidate]:
    namespace, own = _namespace(workload.obj), workload.obj["metadata"]["name"]
    index = 0
    while count > 0:
        name = f"{own}-{index}"
        index += 1
        if (namespace, name) not in names:
            count -= 1
            names.add((namespace, name))
            yield Candidate(_pod(workload, name), f"{namespace}/{own}", number)


def _daemons(
    workload: Manifest, mine: Iterable[Json], nodes: Iterable[Node]
) -> Iterator[Candidate]:
    has_one = {(pod.get("spec") or {}).get("nodeName") for pod in mine}
    own = workload.obj["metadata"]["name"]
    for index, node in enumerate(sorted(nodes, key=lambda node: node.name)):
        pod = _pod(workload, f"{own}-{index}")
        _pin(pod.obj["spec"], node.name)
        if node.name not in has_one and _is_eligible(pod.obj, node):
            yield Candidate(pod, f"{_namespace(workload.obj)}/{own}")


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
    path = template_path(workload.kind)
    template: Any = workload.obj
    for step in path:
        template = template.get(step) if isinstance(template, dict) else None
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise workload.complaint(f"has no {'.'.join(path)}.spec", ("spec",))
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
    if workload.kind not in ("Job", "CronJob"):
        return count_of(workload, "replicas", 1)
    above = template_path(workload.kind)[1:-2]  # a CronJob's Job stands in its jobTemplate
    parallelism = count_of(workload, "parallelism", 1, above)
    completions = count_of(workload, "completions", -1, above)
    if completions < 0:
        return parallelism
    done = Counter((pod.get("status") or {}).get("phase") for pod in mine)["Succeeded"]
    return min(parallelism, max(0, completions - done))


def count_of(manifest: Manifest, field: str, default: int, below: Sequence[str] = ()) -> int:
    """Reads a count in an object's spec; raises UnusableInput for anything else."""
    spec: Any = manifest.obj.get("spec") or {}
    for step in (*below, "spec") if below else ():
        spec = spec.get(step) or {}
    value = spec.get(field)
    if value is None:
        return default
    if not 0 <= value <= _MOST_PODS:
        path = ("spec", *((*below, "spec") if below else ()), field)
        message = f"{'.'.join(path)} is {value}; write a whole number from 0 to {_MOST_PODS}"
        raise manifest.complaint(message, path)
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
    """Names the Deployment of a ReplicaSet that is not in the input: its name without the hash."""
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
