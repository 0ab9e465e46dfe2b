"""What admission reads of a review, a pod and a workload: these fields, of these types, no others.

One declaration for both ways in: msgspec decodes a review by it and skips the rest
(`webhook.review`), and `shaped` picks the same out of any JSON at all. So the rules read a field
without asking what it is. Any stands where a rule looks at the value itself.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict


class _Named(TypedDict, total=False):  # a sysctl, a gate, an operating system
    name: str


class _Variable(TypedDict, total=False):
    name: str
    value: str
    valueFrom: Any


class _Mount(TypedDict, total=False):
    name: str
    mountPath: str
    subPath: str


class _Resources(TypedDict, total=False):
    limits: dict[str, Any]
    requests: dict[str, Any]
    claims: list[Any]


class _Capabilities(TypedDict, total=False):
    add: list[Any]


class _Security(TypedDict, total=False):  # of a container or of a pod
    runAsUser: Any
    runAsNonRoot: Any
    privileged: Any
    allowPrivilegeEscalation: Any
    capabilities: _Capabilities
    sysctls: list[_Named]


class _Container(TypedDict, total=False):
    name: str
    restartPolicy: Any
    env: list[_Variable]
    volumeMounts: list[_Mount]
    resources: _Resources
    securityContext: _Security


class _HostPath(TypedDict, total=False):
    path: str


class _Volume(TypedDict, total=False):
    name: str
    hostPath: _HostPath


class _PodSpec(TypedDict, total=False):
    initContainers: list[_Container]
    containers: list[_Container]
    ephemeralContainers: list[_Container]
    securityContext: _Security
    volumes: list[_Volume]
    schedulingGates: list[_Named]
    os: _Named
    nodeName: Any
    hostIPC: Any
    hostPID: Any
    hostUsers: Any
    runtimeClassName: str


class _Owner(TypedDict, total=False):
    controller: Any


class _Metadata(TypedDict, total=False):
    generateName: str
    annotations: dict[str, Any]
    labels: dict[str, Any]
    ownerReferences: list[_Owner]


class _Pod(TypedDict, total=False):
    metadata: _Metadata
    spec: _PodSpec


class _JobSpec(TypedDict, total=False):
    template: _Pod


class _Job(TypedDict, total=False):
    spec: _JobSpec


class _Spec(_PodSpec, total=False):
    template: _Pod
    jobTemplate: _Job


class Object(TypedDict, total=False):
    """A pod or a workload."""

    metadata: _Metadata
    spec: _Spec


class _Kind(TypedDict, total=False):
    group: str
    kind: str


class _Request(TypedDict, total=False):
    uid: str
    operation: Any
    kind: _Kind
    namespace: str
    name: str
    object: Object | None
    oldObject: Object | None


class AdmissionReview(TypedDict, total=False):
    """An AdmissionReview as it is sent."""

    apiVersion: Any
    kind: Any
    request: _Request


def shaped(value: object, shape: Any) -> Any:
    """What of any JSON value has the shape; None where nothing has.

    A value of the wrong type counts as absent: the API server refuses such an object by itself, and
    says so better. In a list an empty object stands for it, so that the others keep their places.
    """
    return _reader(shape)(value)


@cache
def _reader(shape: Any) -> Callable[[Any], Any]:
    if shape is Any:
        return lambda value: value
    if is_typeddict(shape):
        fields = {key: _reader(inner) for key, inner in get_type_hints(shape).items()}
        return lambda value: _object(value, fields) if isinstance(value, dict) else None
    kind, inner = get_origin(shape) or shape, get_args(shape)
    if kind is UnionType:  # `| None`
        return _reader(inner[0])
    if kind is list and inner[0] is not Any:
        read = _reader(inner[0])
        return lambda value: [read(v) or {} for v in value] if isinstance(value, list) else None
    return lambda value: value if isinstance(value, kind) else None


def _object(value: dict[str, Any], fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    found = {}
    for key, read in fields.items():
        if key in value and (item := read(value[key])) is not None:
            found[key] = item
    return found
