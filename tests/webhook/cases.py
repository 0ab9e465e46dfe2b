"""The table of pods and templates that admission is held to, and how to write one down shortly.

Each case says what the contract says of it; the same table goes through the pure policy and
through a real API server.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from webhook.verdicts import Reason

Manifest = dict[str, Any]

SLICE = "nvidia.com/gpu-10gb"
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
    **spec: Any,
) -> Manifest:
    """A pod with these containers, or with one slice container; `spec` are fields of its spec."""
    metadata: Manifest = {"name": "p"}
    if annotations:
        metadata["annotations"] = dict(annotations)
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


def user(uid: int | None = None, **fields: Any) -> Manifest:
    return {**({} if uid is None else {"runAsUser": uid}), **fields}


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


@dataclass(frozen=True)
class Case:
    """A manifest and what becomes of it: refused for `reason`, or let through.

    `warns` are the topics of the warnings. `api` is part of the API server's own answer, for what
    it refuses by itself and we say nothing of.
    """

    name: str
    manifest: Manifest
    reason: Reason | None = None
    warns: tuple[str, ...] = ()
    api: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


PODS = (
    # What is left alone, and what passes.
    Case("no slices", pod(container({}))),
    Case("cpu only", pod(container({"cpu": "1", "memory": "1Gi"}))),
    Case("whole gpu", pod(container({"nvidia.com/gpu": 1}))),
    Case("mig", pod(container({"nvidia.com/mig-1g.10gb": 1}))),
    Case("shared gpu", pod(container({"nvidia.com/gpu.shared": 1}))),
    Case("slice in limits", pod()),
    Case("slice in requests", pod(container(requests={SLICE: 1}))),
    Case("slice in both", pod(container({SLICE: 1}, requests={SLICE: 1}))),
    Case("count as text", pod(container({SLICE: "1"}))),
    Case("count as thousandths", pod(container({SLICE: "1000m"}))),
    Case("count as power", pod(container({SLICE: "1e0"}))),
    Case("count with a point", pod(container({SLICE: "1.0"}))),
    Case("count of none", pod(container({SLICE: 0}))),
    Case("nos's own pod", pod(**NOS)),
    Case("seven digits", pod(container({"nvidia.com/gpu-1000000gb": 1}))),
    Case("slice beside a plain container", pod(container({}, name="side"), container())),
    Case("two containers, a slice each", pod(container(name="a"), container(name="b"))),
    Case("sidecar", pod(container({}), init=(container(name="s", restartPolicy="Always"),))),
    Case("user of the pod", pod(securityContext=user(1000))),
    Case("user of the container", pod(container(securityContext=user(1000)))),
    Case(
        "container's user over the pod's",
        pod(container(securityContext=user(1000)), securityContext=user(0)),
    ),
    Case(
        "another user without a slice",
        pod(container({}, name="side", securityContext=user(0)), container()),
    ),
    Case("not root", pod(securityContext=user(runAsNonRoot=True))),
    Case("other gates", pod(schedulingGates=[{"name": "example.com/wait"}])),
    Case("our gate", pod(schedulingGates=[{"name": "mpslice.io/carve"}])),
    Case("bound already", pod(nodeName="nowhere")),
    Case("own environment", pod(container(env=env("CUDA_VISIBLE_DEVICES", "HOME")))),
    Case("percentage", pod(container(env=env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")))),
    Case(
        "reserved environment without a slice",
        pod(container({}, name="side", env=env("NVIDIA_VISIBLE_DEVICES")), container()),
    ),
    Case("mount elsewhere", pod(mount("/data"), volumes=SCRATCH)),
    Case("mount with a similar name", pod(mount("/dev/shmem"), volumes=SCRATCH)),
    Case("mount above", pod(mount("/run"), volumes=SCRATCH)),
    Case("mount above shm", pod(mount("/dev"), volumes=SCRATCH)),
    Case("absent fields as null", pod(container({SLICE: 1}, **NULLS), **NULL_SPEC)),
    Case("null in place of limits", pod(container(resources={"limits": None, "requests": ONE}))),
    Case("pod-level resources", pod(resources={"limits": {"cpu": "2", "memory": "1Gi"}})),
    Case("for Linux", pod(os={"name": "linux"})),
    Case("for Windows, no slices", pod(container({}), os={"name": "windows"})),
    Case("400 containers", pod(container(), *(container({}, name=f"c{i}") for i in range(399)))),
    # What the API server answers well enough by itself.
    Case(
        "pod-level slice",
        pod(container({}), resources={"limits": {SLICE: 1}}),
        api=f'spec.resources.limits[{SLICE}]: Unsupported value: "{SLICE}"',
    ),
    Case(
        "request unlike its limit",
        pod(container({SLICE: 1}, requests={SLICE: 2})),
        api=f'spec.containers[0].resources.requests: Invalid value: "2": must be equal to {SLICE}',
    ),
    # MultipleSlices
    Case("two of a size", pod(container({SLICE: 2})), Reason.MULTIPLE_SLICES),
    Case("two of a size as text", pod(container({SLICE: "2000m"})), Reason.MULTIPLE_SLICES),
    Case(
        "two sizes",
        pod(container({SLICE: 1, "nvidia.com/gpu-20gb": 1})),
        Reason.MULTIPLE_SLICES,
    ),
    Case(
        "two in an init container",
        pod(container({}), init=(container({SLICE: 2}, name="setup"),)),
        Reason.MULTIPLE_SLICES,
    ),
    Case(
        "two in a sidecar, after a good one",
        pod(init=(container({SLICE: 3}, name="s", restartPolicy="Always"),)),
        Reason.MULTIPLE_SLICES,
    ),
    Case("two in requests", pod(container(requests={SLICE: 2})), Reason.MULTIPLE_SLICES),
    Case("more than a number holds", pod(container({SLICE: "1e19"})), Reason.MULTIPLE_SLICES),
    Case(
        "two in the last of 100 containers",
        pod(*(container({}, name=f"c{i}") for i in range(99)), container({SLICE: 2})),
        Reason.MULTIPLE_SLICES,
    ),
    Case("very many", pod(container({SLICE: 10**8})), Reason.MULTIPLE_SLICES),
    Case("two sizes, one of them none", pod(container({SLICE: 1, "nvidia.com/gpu-20gb": 0}))),
    # InvalidSlice
    Case("leading zero", pod(container({"nvidia.com/gpu-010gb": 1})), Reason.INVALID_SLICE),
    Case("of nothing", pod(container({"nvidia.com/gpu-0gb": 1})), Reason.INVALID_SLICE),
    Case("capitals", pod(container({"nvidia.com/gpu-10GB": 1})), Reason.INVALID_SLICE),
    Case("fraction of a gb", pod(container({"nvidia.com/gpu-1.5gb": 1})), Reason.INVALID_SLICE),
    Case("gib", pod(container({"nvidia.com/gpu-10gib": 1})), Reason.INVALID_SLICE),
    Case("no hyphen", pod(container({"nvidia.com/gpu10gb": 1})), Reason.INVALID_SLICE),
    Case("no unit", pod(container({"nvidia.com/gpu-10": 1})), Reason.INVALID_SLICE),
    Case(
        "lookalike in requests only",
        pod(container(requests={"nvidia.com/gpu-10GB": 1})),
        Reason.INVALID_SLICE,
    ),
    Case(
        "lookalike in an init container",
        pod(container({}), init=(container({"nvidia.com/gpu-10Gi": 1}, name="setup"),)),
        Reason.INVALID_SLICE,
    ),
    Case("half a slice", pod(container({SLICE: "500m"})), Reason.INVALID_SLICE),
    Case("one and a half", pod(container({SLICE: "1.5"})), Reason.INVALID_SLICE),
    Case("half in requests", pod(container(requests={SLICE: "500m"})), Reason.INVALID_SLICE),
    Case("negative", pod(container({SLICE: -1})), Reason.INVALID_SLICE),
    # SizeNotAllowed
    Case(
        "size not on the list",
        pod(container({"nvidia.com/gpu-15gb": 1})),
        Reason.SIZE_NOT_ALLOWED,
        settings={"allowed_sizes": frozenset({10, 20, 40})},
    ),
    Case("size on the list", pod(), settings={"allowed_sizes": frozenset({10, 20})}),
    # UserNamespaceConflict
    Case("user namespace", pod(hostUsers=False), Reason.USER_NAMESPACE_CONFLICT),
    Case(
        "user namespace without hostIPC",
        pod(hostUsers=False),
        Reason.USER_NAMESPACE_CONFLICT,
        settings={"host_ipc": False},
    ),
    Case("host's users", pod(hostUsers=True)),
    Case(
        "user namespace and two slices",
        pod(container({SLICE: 2}), hostUsers=False),
        Reason.MULTIPLE_SLICES,
    ),
    Case("user namespace without slices", pod(container({}), hostUsers=False)),
    # RunAsUserMismatch
    Case("pod runs as root", pod(securityContext=user(0)), Reason.RUN_AS_USER_MISMATCH),
    Case(
        "container runs as root",
        pod(container(securityContext=user(0))),
        Reason.RUN_AS_USER_MISMATCH,
    ),
    Case(
        "container's wrong user over the pod's",
        pod(container(securityContext=user(1)), securityContext=user(1000)),
        Reason.RUN_AS_USER_MISMATCH,
    ),
    Case(
        "only the second container is wrong",
        pod(container(name="a"), container(name="b", securityContext=user(33))),
        Reason.RUN_AS_USER_MISMATCH,
    ),
    # RunAsNonRootConflict
    Case(
        "not root, as root",
        pod(securityContext=user(runAsNonRoot=True)),
        Reason.RUN_AS_NON_ROOT_CONFLICT,
        settings={"mps_user": 0},
    ),
    Case(
        "container not root, as root",
        pod(container(securityContext=user(runAsNonRoot=True))),
        Reason.RUN_AS_NON_ROOT_CONFLICT,
        settings={"mps_user": 0},
    ),
    Case(
        "container may be root, as root",
        pod(
            container(securityContext=user(runAsNonRoot=False)),
            securityContext=user(runAsNonRoot=True),
        ),
        settings={"mps_user": 0},
    ),
    # SliceWithWholeGPU
    Case(
        "slice and a whole gpu",
        pod(container({SLICE: 1, "nvidia.com/gpu": 1})),
        Reason.SLICE_WITH_WHOLE_GPU,
    ),
    Case(
        "slice and mig",
        pod(container({SLICE: 1, "nvidia.com/mig-1g.10gb": 1})),
        Reason.SLICE_WITH_WHOLE_GPU,
    ),
    Case(
        "slice beside a whole gpu",
        pod(container(), container({"nvidia.com/gpu": 1}, name="other")),
    ),
    Case("slice and no whole gpu", pod(container({SLICE: 1, "nvidia.com/gpu": 0}))),
    # ReservedEnvironment
    Case(
        "limit of its own",
        pod(container(env=env("HOME", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"))),
        Reason.RESERVED_ENVIRONMENT,
    ),
    Case(
        "pipe of its own",
        pod(container(env=env("CUDA_MPS_PIPE_DIRECTORY"))),
        Reason.RESERVED_ENVIRONMENT,
    ),
    Case(
        "all devices",
        pod(container(env=env("NVIDIA_VISIBLE_DEVICES"))),
        Reason.RESERVED_ENVIRONMENT,
    ),
    Case(
        "percentage, proportional",
        pod(container(env=env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"))),
        Reason.RESERVED_ENVIRONMENT,
        settings={"compute": "proportional"},
    ),
    # ReservedMount
    Case("mount at shm", pod(mount("/dev/shm"), volumes=SCRATCH), Reason.RESERVED_MOUNT),
    Case("mount below shm", pod(mount("/dev//shm/./x/"), volumes=SCRATCH), Reason.RESERVED_MOUNT),
    Case("mount at the pipe", pod(mount("/run/mpslice"), volumes=SCRATCH), Reason.RESERVED_MOUNT),
    Case(
        "mount below the pipe",
        pod(mount("/var/run/mpslice/pipe"), volumes=SCRATCH),
        Reason.RESERVED_MOUNT,
    ),
    Case(
        "mount at shm, stripped",
        pod(mount("/dev/shm"), volumes=SCRATCH),
        warns=("DevShmStripped",),
        settings={"dev_shm": "strip"},
    ),
    Case(
        "mount at shm without a slice",
        pod(
            container({}, name="side", volumeMounts=[{"name": "scratch", "mountPath": "/dev/shm"}]),
            container(),
            volumes=SCRATCH,
        ),
    ),
    # Warnings
    Case(
        "privileged",
        pod(container(securityContext={"privileged": True})),
        warns=("PrivilegedSlice",),
    ),
    Case(
        "init container that ends",
        pod(container({}), init=(container(name="setup"),)),
        warns=("SliceInInitContainer",),
    ),
    Case(
        "refused, were it enforced",
        pod(container({SLICE: 2})),
        warns=("MultipleSlices",),
        settings={"enforcement": "warn"},
    ),
)

TEMPLATES = (
    Case("Deployment, good", workload("Deployment", pod())),
    Case("Deployment, no slices", workload("Deployment", pod(container({})))),
    Case(
        "Deployment, two slices",
        workload("Deployment", pod(container({SLICE: 2}))),
        warns=("MultipleSlices",),
    ),
    Case(
        "StatefulSet, lookalike",
        workload("StatefulSet", pod(container({"nvidia.com/gpu-10GB": 1}))),
        warns=("InvalidSlice",),
    ),
    Case(
        "DaemonSet, root",
        workload("DaemonSet", pod(securityContext=user(0))),
        warns=("RunAsUserMismatch",),
    ),
    Case(
        "ReplicaSet, user namespace",
        workload("ReplicaSet", pod(hostUsers=False)),
        warns=("UserNamespaceConflict",),
    ),
    Case(
        "Job, shared memory",
        workload("Job", pod(mount("/dev/shm"), volumes=SCRATCH)),
        warns=("ReservedMount",),
    ),
    Case(
        "CronJob, environment and privileged",
        workload(
            "CronJob",
            pod(container(env=env("NVIDIA_VISIBLE_DEVICES"), securityContext={"privileged": True})),
        ),
        warns=("ReservedEnvironment", "PrivilegedSlice"),
    ),
    Case(
        "CronJob, init container",
        workload("CronJob", pod(container({}), init=(container(name="setup"),))),
        warns=("SliceInInitContainer",),
    ),
)
