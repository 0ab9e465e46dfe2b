"""The shape of the manifests that are read: maps, lists and texts where Kubernetes has them.

A manifest has not been through an API server. Checked here once, field by field, so that nothing
behind this has to ask whether a list is one; null stands for absent everywhere, as in Kubernetes.
"""

from collections.abc import Mapping
from typing import Any, Final

from cli.manifests import FieldPath, Manifest

Shape = Any
"""A type, a list of one shape, a dict of fields, or `Map(shape)` for a map of any keys."""


class Map:
    """A map with keys that are texts and values of one shape."""

    def __init__(self, values: Shape) -> None:
        self.values = values


_LABELS: Final = Map(str)
_EXPRESSIONS: Final = [{"key": str, "operator": str, "values": [str]}]
_TERMS: Final = [{"matchExpressions": _EXPRESSIONS, "matchFields": _EXPRESSIONS}]
_SELECTOR: Final = {"matchLabels": _LABELS, "matchExpressions": _EXPRESSIONS}
_POD_TERMS: Final = {
    "requiredDuringSchedulingIgnoredDuringExecution": [
        {
            "topologyKey": str,
            "labelSelector": _SELECTOR,
            "namespaces": [str],
            "namespaceSelector": _SELECTOR,
            "matchLabelKeys": [str],
            "mismatchLabelKeys": [str],
        }
    ]
}
_SPREAD: Final = {
    "topologyKey": str,
    "whenUnsatisfiable": str,
    "labelSelector": _SELECTOR,
    "maxSkew": int,
    "minDomains": int,
    "nodeAffinityPolicy": str,
    "nodeTaintsPolicy": str,
    "matchLabelKeys": [str],
}
_METADATA: Final = {
    "name": str,
    "namespace": str,
    "uid": str,
    "creationTimestamp": str,
    "labels": _LABELS,
    "annotations": Map(object),
    "ownerReferences": [{"kind": str, "name": str, "controller": bool}],
}
_REQUIREMENTS: Final = {"limits": Map(object), "requests": Map(object)}
_CONTAINER: Final = {
    "name": str,
    "restartPolicy": str,
    "resources": _REQUIREMENTS,
    "ports": [{"hostPort": int, "containerPort": int, "protocol": str, "hostIP": str}],
}
_CONTAINER_STATUS: Final = {
    "name": str,
    "resources": _REQUIREMENTS,
    "allocatedResources": Map(object),
}
_POD_SPEC: Final = {
    "nodeName": str,
    "priorityClassName": str,
    "priority": int,
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "nodeSelector": _LABELS,
    "schedulingGates": [{"name": str}],
    "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": _TERMS}
        },
        "podAffinity": _POD_TERMS,
        "podAntiAffinity": _POD_TERMS,
    },
    "topologySpreadConstraints": [_SPREAD],
    "hostNetwork": bool,
    "resources": _REQUIREMENTS,
    "overhead": Map(object),
}
_POD_STATUS: Final = {
    "phase": str,
    "conditions": [{"type": str, "reason": str}],
    "containerStatuses": [_CONTAINER_STATUS],
    "initContainerStatuses": [_CONTAINER_STATUS],
    "resources": _REQUIREMENTS,
    "allocatedResources": Map(object),
}
_TEMPLATE: Final = {
    "metadata": {"labels": _LABELS, "annotations": Map(object)},
    "spec": _POD_SPEC,
}
_WORKLOAD: Final = {
    "metadata": _METADATA,
    "spec": {"replicas": int, "parallelism": int, "completions": int, "template": _TEMPLATE},
}
_SHAPES: Final[Mapping[str, Shape]] = {
    "Pod": {"metadata": _METADATA, "spec": _POD_SPEC, "status": _POD_STATUS},
    "Node": {
        "metadata": _METADATA,
        "spec": {
            "unschedulable": bool,
            "taints": [{"key": str, "value": str, "effect": str}],
        },
        "status": {
            "allocatable": Map(object),
            "capacity": Map(object),
            "conditions": [{"type": str, "status": str}],
        },
    },
    "NodeLayout": {"metadata": _METADATA, "spec": dict, "status": dict},
    "Namespace": {"metadata": _METADATA},
    "PriorityClass": {"metadata": _METADATA, "value": int},
    "PodGroup": {"metadata": _METADATA, "spec": {"minMember": int}},
    **dict.fromkeys(("Deployment", "ReplicaSet", "StatefulSet", "Job", "DaemonSet"), _WORKLOAD),
}
_WORDS: Final = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    dict: "a map",
    list: "a list",
}


def check_shape(manifest: Manifest) -> None:
    """Raises UnusableInput for the first field that is of another kind than Kubernetes has it."""
    _check(manifest, manifest.obj, _SHAPES[manifest.kind], ())


def _check(manifest: Manifest, value: Any, shape: Shape, path: FieldPath) -> None:
    if value is None or shape is object:
        return
    _expect(manifest, value, _type_of(shape), path)
    if isinstance(shape, Map):
        for key, item in value.items():
            _expect(manifest, key, str, (*path, str(key)))
            _check(manifest, item, shape.values, (*path, key))
    elif isinstance(shape, list):
        for index, item in enumerate(value):
            if item is None:
                raise _complaint(manifest, item, _type_of(shape[0]), (*path, index))
            _check(manifest, item, shape[0], (*path, index))
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            _check(manifest, value.get(key), inner, (*path, key))


def _type_of(shape: Shape) -> type:
    if isinstance(shape, type):
        return shape
    return list if isinstance(shape, list) else dict


def _expect(manifest: Manifest, value: Any, wanted: type, path: FieldPath) -> None:
    wrong_bool = wanted is int and isinstance(value, bool)
    if not isinstance(value, wanted) or wrong_bool:
        raise _complaint(manifest, value, wanted, path)


def _complaint(manifest: Manifest, value: Any, wanted: type, path: FieldPath) -> Exception:
    return manifest.complaint(f"{dotted(path)} is {value!r:.60}; write {_WORDS[wanted]}", path)


def dotted(path: FieldPath) -> str:
    """`spec.containers[0].name`, as Kubernetes writes a field's path."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
