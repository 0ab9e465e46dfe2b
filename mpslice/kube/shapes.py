"""The shape of the objects that are read: maps, lists and texts where Kubernetes has them.

An API server keeps to it, but a manifest has not been through one. Checked field by field, so that
nothing behind this has to ask whether a list is one; null stands for absent, as in Kubernetes.
"""

from typing import Any, Final

FieldPath = tuple[str | int, ...]
"""Keys and indexes from the object's root."""

Shape = Any
"""A type, a list of one shape, a dict of fields, or `Map(shape)` for a map of any keys."""


class Map:
    """A map with keys that are texts and values of one shape."""

    def __init__(self, values: Shape) -> None:
        self.values = values


LABELS: Final = Map(str)
_EXPRESSIONS: Final = [{"key": str, "operator": str, "values": [str]}]
_TERMS: Final = [{"matchExpressions": _EXPRESSIONS, "matchFields": _EXPRESSIONS}]
_SELECTOR: Final = {"matchLabels": LABELS, "matchExpressions": _EXPRESSIONS}
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
METADATA: Final = {
    "name": str,
    "namespace": str,
    "uid": str,
    "creationTimestamp": str,
    "labels": LABELS,
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
POD_SPEC: Final = {
    "nodeName": str,
    "priorityClassName": str,
    "priority": int,
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "nodeSelector": LABELS,
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
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}, "ephemeral": dict}],
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

POD: Final = {"metadata": METADATA, "spec": POD_SPEC, "status": _POD_STATUS}
NODE: Final = {
    "metadata": METADATA,
    "spec": {"unschedulable": bool, "taints": [{"key": str, "value": str, "effect": str}]},
    "status": {
        "allocatable": Map(object),
        "capacity": Map(object),
        "conditions": [{"type": str, "status": str}],
    },
}
NAMESPACE: Final = {"metadata": METADATA}
POD_GROUP: Final = {"metadata": METADATA, "spec": {"minMember": int}}

_WORDS: Final = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    dict: "a map",
    list: "a list",
}


class WrongShape(ValueError):
    """A field is of another kind than Kubernetes has it; `path` says which."""

    def __init__(self, path: FieldPath, value: object, wanted: type) -> None:
        super().__init__(f"{dotted(path) or 'the object'} is {value!r:.60}; write {_WORDS[wanted]}")
        self.path = path


def check_shape(value: Any, shape: Shape, path: FieldPath = ()) -> None:
    """Raises WrongShape for the first field of another shape; `path` is the path of the value."""
    if not _fits(value, shape):  # nearly every value fits, and this answers sooner
        _find_wrong(value, shape, path)


def _fits(value: Any, shape: Shape) -> bool:
    if value is None or shape is object:
        return True
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        for key, inner in shape.items():
            if key in value and not _fits(value[key], inner):
                return False
        return True
    if isinstance(shape, list):
        if not isinstance(value, list):
            return False
        (inner,) = shape
        return all(item is not None and _fits(item, inner) for item in value)
    if isinstance(shape, Map):
        if not isinstance(value, dict):
            return False
        inner = shape.values
        return all(isinstance(key, str) and _fits(item, inner) for key, item in value.items())
    return isinstance(value, shape) and not (shape is int and isinstance(value, bool))


def _find_wrong(value: Any, shape: Shape, path: FieldPath) -> None:
    """Raises WrongShape for the first field of another shape."""
    if value is None or shape is object:
        return
    _expect(value, _type_of(shape), path)
    if isinstance(shape, Map):
        for key, item in value.items():
            _expect(key, str, (*path, str(key)))
            _find_wrong(item, shape.values, (*path, key))
    elif isinstance(shape, list):
        for index, item in enumerate(value):
            if item is None:
                raise WrongShape((*path, index), item, _type_of(shape[0]))
            _find_wrong(item, shape[0], (*path, index))
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            if key in value:
                _find_wrong(value[key], inner, (*path, key))


def _type_of(shape: Shape) -> type:
    if isinstance(shape, type):
        return shape
    return list if isinstance(shape, list) else dict


def _expect(value: Any, wanted: type, path: FieldPath) -> None:
    wrong_bool = wanted is int and isinstance(value, bool)
    if not isinstance(value, wanted) or wrong_bool:
        raise WrongShape(path, value, wanted)


def dotted(path: FieldPath) -> str:
    """`spec.containers[0].name`, as Kubernetes writes a field's path."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
