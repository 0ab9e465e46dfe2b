"""Whether a manifest that has not been through an API server has the shape of its kind."""

from collections.abc import Mapping
from typing import Final

from cli.manifests import Manifest
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

_TEMPLATE: Final = {
    "metadata": {"labels": LABELS, "annotations": Map(object)},
    "spec": POD_SPEC,
}
_WORKLOAD: Final = {
    "metadata": METADATA,
    "spec": {"replicas": int, "parallelism": int, "completions": int, "template": _TEMPLATE},
}
_SHAPES: Final[Mapping[str, Shape]] = {
    "Pod": POD,
    "Node": NODE,
    "NodeLayout": {"metadata": METADATA, "spec": dict, "status": dict},
    "Namespace": NAMESPACE,
    "PriorityClass": {"metadata": METADATA, "value": int},
    "PodGroup": POD_GROUP,
    **dict.fromkeys(("Deployment", "ReplicaSet", "StatefulSet", "Job", "DaemonSet"), _WORKLOAD),
}


def check_manifest(manifest: Manifest) -> None:
    """Raises UnusableInput for the first field that is of another kind than Kubernetes has it."""
    try:
        check_shape(manifest.obj, _SHAPES[manifest.kind])
    except WrongShape as error:
        raise manifest.complaint(str(error), error.path) from error
