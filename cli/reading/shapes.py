"""The kinds that are read, and whether a manifest that has not been through an API server has the
shape of its kind."""

from collections.abc import Mapping
from typing import Final

from cli.reading.manifests import Manifest
from mpslice.kube.shapes import (
    LABELS,
    METADATA,
    NAMESPACE,
    NODE,
    POD,
    POD_GROUP,
    POD_SPEC,
    Map,
    Shape,
    WrongShape,
    check_shape,
)

WORKLOADS: Final[Mapping[str, str]] = {
    "ReplicationController": "",
    "Job": "batch",
    "CronJob": "batch",
    **dict.fromkeys(("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"), "apps"),
}
"""The kinds whose pods are planned, each with its API group."""

GROUPS: Final[Mapping[str, str]] = {
    "Node": "",
    "Pod": "",
    "Namespace": "",
    "NodeLayout": "mpslice.io",
    "PriorityClass": "scheduling.k8s.io",
    "PodGroup": "scheduling.x-k8s.io",
    **WORKLOADS,
}
"""The API group of each kind that is read; others have kinds of these names, too."""

_TEMPLATE: Final = {
    "metadata": {"labels": LABELS, "annotations": Map(object)},
    "spec": POD_SPEC,
}
_SPEC: Final = {
    "replicas": int,
    "parallelism": int,
    "completions": int,
    "suspend": bool,
    "template": _TEMPLATE,
}
_SHAPES: Final[Mapping[str, Shape]] = {
    **{kind: {"metadata": METADATA, "spec": _SPEC} for kind in WORKLOADS},
    "Job": {
        "metadata": METADATA,
        "spec": _SPEC,
        "status": {"conditions": [{"type": str, "status": str}]},
    },
    "CronJob": {
        "metadata": METADATA,
        "spec": {"suspend": bool, "jobTemplate": {"spec": _SPEC}},
    },
    "Pod": POD,
    "Node": NODE,
    "NodeLayout": {"metadata": METADATA, "spec": dict, "status": dict},
    "Namespace": NAMESPACE,
    "PriorityClass": {"metadata": METADATA, "value": int},
    "PodGroup": POD_GROUP,
}


def check_manifest(manifest: Manifest) -> None:
    """Raises UnusableInput for the first field that has another type than in Kubernetes."""
    try:
        check_shape(manifest.obj, _SHAPES[manifest.kind])
    except WrongShape as error:
        raise manifest.complaint(str(error), error.path) from error
