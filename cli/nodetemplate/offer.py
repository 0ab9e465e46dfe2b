"""What a new node like one that there is would offer, for the simulation of an autoscaler. Pure.

An autoscaler adds a node where the pods that wait would fit on an empty one, so each size counts as
often as it fits on the node with nothing else on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mpslice.kube.api import Json
from mpslice.nodelayout import GpuStatus, NodeLayout
from mpslice.slices import GB_RESOURCE, WHOLE_GPU, SliceSize, parse_resource, resource_name
from planner.model.constraints import Taint
from planner.model.nodes import Node

GPU_LABELS: Final = frozenset(
    {
        "cloud.google.com/gke-accelerator",
        "cluster-api/accelerator",
        "k8s.amazonaws.com/accelerator",
        "kubernetes.azure.com/accelerator",
    }
)
"""The labels of nodes that cluster-autoscaler takes for unready without `nvidia.com/gpu`
(GPULabel of the cloud providers, pkg/processors/customresources/gpu_processor.go)."""

_INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
_NODE_POOL: Final = "karpenter.sh/nodepool"
_COPIED: Final = tuple(f"nvidia.com/gpu.{name}" for name in ("product", "memory", "count"))
_PASSING_TAINTS: Final = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "karpenter.sh/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "ignore-taint.cluster-autoscaler.kubernetes.io/",
    "startup-taint.cluster-autoscaler.kubernetes.io/",
    "status-taint.cluster-autoscaler.kubernetes.io/",
)
"""How the keys of taints begin that tell the state of one node, and nothing of its kind."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a new node like `node` has before any pod is on it.

    `amounts` are its CPU and memory as the API server writes them; `instance_type` and `node_pool`
    are "" where no label says them.
    """

    node: str
    gpus: tuple[int, ...]
    resources: Mapping[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    amounts: Mapping[str, str] | None = None
    instance_type: str = ""
    node_pool: str = ""
    warnings: tuple[str, ...] = ()


def offer_of(
    node: Node,
    obj: Json,
    layout: NodeLayout,
    sizes: Iterable[SliceSize],
    *,
    label: tuple[str, str],
    max_slices_per_gpu: int,
) -> Offer:
    """The offer of a node like this one, which `label` hands over."""
    gpus = layout.status.gpus if layout.status else ()
    healthy = [gpu for gpu in gpus if gpu.healthy]
    resources = {
        resource_name(size): _count(healthy, size, max_slices_per_gpu)
        for size in sorted(set(sizes))
    }
    status = obj.get("status") or {}
    capacity = status.get("capacity") or {}
    if GB_RESOURCE in capacity:
        resources[GB_RESOURCE] = sum(gpu.capacity_gb for gpu in healthy)
    copied = {name: node.labels[name] for name in _COPIED if name in node.labels}
    return Offer(
        node=node.name,
        gpus=tuple(gpu.capacity_gb for gpu in healthy),
        resources=resources,
        labels={label[0]: label[1], **copied},
        taints=tuple(each for each in node.taints if not each.key.startswith(_PASSING_TAINTS)),
        amounts={name: str(capacity[name]) for name in ("cpu", "memory") if name in capacity},
        instance_type=node.labels.get(_INSTANCE_TYPE, ""),
        node_pool=node.labels.get(_NODE_POOL, ""),
        warnings=tuple(_warnings(node, gpus, resources)),
    )


def _count(gpus: Sequence[GpuStatus], size: SliceSize, most: int) -> int:
    """How many slices of one size fit on the GPUs with nothing else on them."""
    return sum(min(gpu.capacity_gb // size, most) for gpu in gpus)


def _warnings(node: Node, gpus: Sequence[GpuStatus], resources: Mapping[str, int]) -> Iterable[str]:
    for gpu in gpus:
        if not gpu.healthy:
            yield f"GPU {gpu.index} of {node.name} is not counted: {gpu.reason or 'Unhealthy'}"
    for name, count in resources.items():
        if not count:
            yield f"{name} fits on no GPU of {node.name}, so no such node helps a pod of that size"
    whole = dict(node.allocatable.extended).get(WHOLE_GPU, 0)
    for name in sorted(GPU_LABELS & node.labels.keys()):
        if not whole:
            yield (
                f"{node.name} has the label {name} and offers no {WHOLE_GPU}, so that "
                "cluster-autoscaler takes it for unready; leave that label off the node group"
            )


def sizes_in_use(pods: Iterable[Json], layout: NodeLayout | None) -> frozenset[SliceSize]:
    """The sizes that pods ask for, and those that stand on the node."""
    found = {size for pod in pods for size in _sizes(pod)}
    gpus = layout.status.gpus if layout and layout.status else ()
    return frozenset(found | {each.id.size for gpu in gpus for each in gpu.slices})


def _sizes(pod: Mapping[str, Any]) -> Iterable[SliceSize]:
    spec = pod.get("spec") or {}
    for group in ("initContainers", "containers"):
        for container in spec.get(group) or ():
            for name in (container.get("resources") or {}).get("limits") or {}:
                if (size := parse_resource(name)) is not None:
                    yield size
