"""How a pod or workload of a test is written down shortly."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION

Manifest = dict[str, Any]

SLICE = "nvidia.com/gpu-10gb"
GB = "mpslice.io/gb"
GROUP = {GROUP_LABEL: "train"}
"""The label of a pod of a group."""

NOS: Manifest = {"hostIPC": True, "securityContext": {"runAsUser": 1000}}
"""What people write for nos by hand."""


def container(
    limits: Mapping[str, object] | None = None,
    *,
    name: str = "main",
    requests: Mapping[str, object] | None = None,
    **fields: Any,
) -> Manifest:
    """A container that asks for one slice unless told otherwise; `{}` asks for nothing."""
    if limits is None:
        limits = {} if requests is not None else {SLICE: 1}
    sides = {"limits": dict(limits), "requests": dict(requests or {})}
    resources = {side: amounts for side, amounts in sides.items() if amounts}
    return {
        "name": name,
        "image": "none",
        **({"resources": resources} if resources else {}),
        **deepcopy(fields),
    }


def pod(
    *containers: Manifest,
    init: tuple[Manifest, ...] = (),
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Manifest:
    """A pod with these containers, or with one slice container; `spec` are fields of its spec."""
    metadata: Manifest = {"name": "p"}
    if annotations:
        metadata["annotations"] = dict(annotations)
    if labels:
        metadata["labels"] = dict(labels)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            **({"initContainers": list(init)} if init else {}),
            "containers": list(containers) or [container()],
            **deepcopy(spec),
        },
    }


def spread(value: str) -> dict[str, str]:
    """The annotation that spreads a group."""
    return {SPREAD_ANNOTATION: value}


def mount(path: str, **fields: Any) -> Manifest:
    """A container with a slice and one mount; its pod needs `scratch`."""
    return container(volumeMounts=[{"name": "scratch", "mountPath": path}], **fields)


SCRATCH = [{"name": "scratch", "emptyDir": {}}]


ONE = {SLICE: "1"}
NULLS: Manifest = dict.fromkeys(
    ("securityContext", "env", "volumeMounts", "command", "restartPolicy")
)
NULL_SPEC: Manifest = dict.fromkeys(
    ("hostIPC", "hostUsers", "initContainers", "nodeName", "schedulingGates", "securityContext")
)
"""What generators of manifests write for what is not set."""


def env(*names: str) -> list[Manifest]:
    return [{"name": name, "value": "x"} for name in names]


def host_path(path: str, **mounted: Any) -> Manifest:
    """Fields of a pod: a slice container beside one that mounts a path of the host."""
    mounts = [{"name": "host", "mountPath": "/host", **mounted}]
    return pod(
        container({}, name="side", volumeMounts=mounts),
        container(),
        volumes=[{"name": "host", "hostPath": {"path": path}}],
    )


def sysctl(name: str) -> Manifest:
    return {"sysctls": [{"name": name, "value": "1"}]}


def adds(*capabilities: str) -> Manifest:
    return {"capabilities": {"add": list(capabilities)}}


FROM_LABEL: Manifest = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['gpus']"}}}
ESCALATES: Manifest = {"allowPrivilegeEscalation": True}
DENY_ESCALATION = {"privilege_escalation": "deny"}
CLAIMS: Manifest = {"resourceClaims": [{"name": "nic", "resourceClaimName": "nic"}]}


def user(uid: int | None = None, **fields: Any) -> Manifest:
    return {**({} if uid is None else {"runAsUser": uid}), **fields}


FAULTS = pod(
    mount("/dev/shm", name="a", env=env("NVIDIA_VISIBLE_DEVICES"), securityContext=user(0)),
    container({SLICE: 2, "nvidia.com/gpu": 1}, name="b"),
    container({"nvidia.com/gpu-10GB": 1}, name="c"),
    volumes=SCRATCH,
)
"""As a pod looks before anybody has read the user guide."""


def workload(kind: str, template: Manifest, name: str = "w") -> Manifest:
    """A workload of that kind whose template is the pod given."""
    spec = {"metadata": {"labels": {"app": name}}, "spec": deepcopy(template["spec"])}
    selector = {"matchLabels": {"app": name}}
    metadata = {"name": name}
    match kind:
        case "Job":
            spec["spec"]["restartPolicy"] = "Never"
            return _object("batch/v1", kind, metadata, {"template": spec})
        case "CronJob":
            spec["spec"]["restartPolicy"] = "Never"
            inner = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": spec}}}
            return _object("batch/v1", kind, metadata, inner)
        case "StatefulSet":
            body = {"selector": selector, "serviceName": name, "template": spec}
            return _object("apps/v1", kind, metadata, body)
    return _object("apps/v1", kind, metadata, {"selector": selector, "template": spec})


def _object(api_version: str, kind: str, metadata: Manifest, spec: Manifest) -> Manifest:
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
