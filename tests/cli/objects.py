"""Kubernetes objects of small clusters as an API server would answer them, written down shortly."""

from collections.abc import Iterable, Mapping
from typing import Any

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    SliceState,
    SliceStatus,
    status_to_json,
)
from mpslice.slices import SliceSize

Json = dict[str, Any]

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
LABEL = ("nos.nebuly.com/gpu-partitioning", "mps")
CREATED = "2026-01-01T11:59:00Z"
READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "posts"}


def meta(name: str, namespace: str = "", **fields: Any) -> Json:
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": CREATED, **fields}
    return {**metadata, "namespace": namespace} if namespace else metadata


def node(
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    handed_over: bool = True,
    ready: bool = True,
    cordoned: bool = False,
    taints: Iterable[Json] = (),
    amounts: Mapping[str, str] | None = None,
) -> Json:
    """A node with 32 CPUs and 256 GiB."""
    own = {LABEL[0]: LABEL[1]} if handed_over else {}
    resources = {"cpu": "32", "memory": "256Gi", "pods": "110", **(amounts or {})}
    state = READY if ready else {**READY, "status": "False", "message": "kubelet stopped posting"}
    return {
        "metadata": meta(name, labels={HOSTNAME: name, **own, **(labels or {})}),
        "spec": {"unschedulable": cordoned, "taints": list(taints)},
        "status": {"allocatable": resources, "capacity": resources, "conditions": [state]},
    }


def taint(key: str, value: str = "", effect: str = "NoSchedule") -> Json:
    return {"key": key, "effect": effect, **({"value": value} if value else {})}


def gpu(
    name: str, index: int, capacity: int, *slices: tuple[int, str], reason: str = ""
) -> GpuStatus:
    """`slices` are a size in gb and the pod that holds it, "" for a free one."""
    uuid = GpuUuid(f"GPU-{name}-{index}")
    stands = tuple(
        SliceStatus(
            DeviceId(uuid, SliceSize(size), number),
            size * 950,
            SliceState.USED if pod else SliceState.FREE,
            pod or None,
            "main" if pod else None,
        )
        for number, (size, pod) in enumerate(slices)
    )
    return GpuStatus(
        uuid, index, "NVIDIA A100", capacity * 954, capacity, not reason, reason or None, stands
    )


def layout(
    name: str,
    *gpus: GpuStatus,
    ready: tuple[str, str] = ("", ""),
    applied: tuple[str, str] = ("", ""),
    behind: bool = False,
    release: bool = False,
    status: bool = True,
) -> Json:
    """A NodeLayout whose spec is what stands; `ready` and `applied` are reasons why it is not."""
    conditions = (
        Condition(ConditionType.READY, not ready[0], ready[0] or "Serving", ready[1]),
        Condition(ConditionType.APPLIED, not applied[0], applied[0] or "Applied", applied[1]),
    )
    said = LayoutStatus(1 if behind else 2, gpus, conditions)
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": f"uid-{name}"}
    return {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": meta(name, generation=2, ownerReferences=[owner]),
        "spec": {"release": release} if release else {},
        **({"status": status_to_json(said)} if status else {}),
    }


def pod(
    name: str,
    *sizes: int,
    namespace: str = "team-a",
    on: str = "",
    gates: Iterable[str] = (),
    priority: int = 0,
    requests: Mapping[str, str] | None = None,
    conditions: Iterable[Json] = (),
    status: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: str = CREATED,
    owner: Json | None = None,
    **spec: Any,
) -> Json:
    """A pod with a container for each slice; without sizes one that asks for none."""
    containers = [
        {
            "name": "main" if number == 0 else f"c{number}",
            "image": "none",
            "resources": {
                "limits": {f"nvidia.com/gpu-{size}gb": "1"} if size else {},
                "requests": dict(requests or {}) if number == 0 else {},
            },
        }
        for number, size in enumerate(sizes or (0,))
    ]
    metadata = meta(
        name,
        namespace,
        labels=dict(labels or {}),
        annotations=dict(annotations or {}),
        creationTimestamp=created,
        **({"ownerReferences": [owner]} if owner else {}),
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "containers": containers,
            "priority": priority,
            **({"nodeName": on} if on else {}),
            **({"schedulingGates": [{"name": each} for each in gates]} if gates else {}),
            **spec,
        },
        "status": {
            "phase": "Running" if on else "Pending",
            "conditions": list(conditions),
            **(status or {}),
        },
    }


def anti_affinity(labels: Mapping[str, str]) -> Json:
    """The `affinity` of a pod that no node with a pod of these labels may have."""
    term = {"labelSelector": {"matchLabels": dict(labels)}, "topologyKey": HOSTNAME}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def zone_spread(labels: Mapping[str, str]) -> Json:
    """A topology spread constraint: zones differ by one pod of these labels at most."""
    return {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": dict(labels)},
    }


def available(reason: str, message: str, *, status: str = "False") -> Json:
    """The condition mpslice.io/SliceAvailable."""
    return {
        "type": "mpslice.io/SliceAvailable",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": CREATED,
    }


def event(about: Json, reason: str, message: str, *, by: str = "mpslice-planner") -> Json:
    metadata = about["metadata"]
    return {
        "metadata": meta(f"{metadata['name']}.{reason}", metadata.get("namespace") or "default"),
        "involvedObject": {"uid": metadata["uid"], "name": metadata["name"]},
        "reason": reason,
        "message": message,
        "source": {"component": by},
        "lastTimestamp": "2026-01-01T11:59:30Z",
    }
