"""Several violations at once, and what is warned of; the templates of workloads."""

from tests.webhook.cases.case import Case
from tests.webhook.cases.manifests import (
    FAULTS,
    SCRATCH,
    SLICE,
    container,
    env,
    host_path,
    mount,
    pod,
    user,
    workload,
)
from webhook.verdicts import Reason

TELLING = (
    # Several at once
    Case(
        "six faults",
        FAULTS,
        Reason.MULTIPLE_SLICES,
        (
            Reason.INVALID_SLICE,
            Reason.RUN_AS_USER_MISMATCH,
            Reason.SLICE_WITH_WHOLE_GPU,
            Reason.RESERVED_ENVIRONMENT,
            Reason.RESERVED_MOUNT,
        ),
    ),
    Case(
        "the same fault in eight containers",
        pod(*(container({SLICE: 2}, name=f"c{i}") for i in range(8))),
        Reason.MULTIPLE_SLICES,
        (Reason.MULTIPLE_SLICES,) * 7,
    ),
    # Warnings
    Case(
        "CUDA device of its own",
        pod(container(env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "1"}])),
        warns=("CudaVisibleDevices",),
    ),
    Case(
        "CUDA device 0",
        pod(container(env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}])),
    ),
    Case("gVisor", pod(runtimeClassName="gvisor"), warns=("SandboxedRuntime",)),
    Case("Kata", pod(runtimeClassName="kata-qemu"), warns=("SandboxedRuntime",)),
    Case("another runtime", pod(runtimeClassName="nvidia")),
    Case("host's processes", pod(hostPID=True), warns=("HostPID",)),
    Case(
        "odd in every way and without slices",
        pod(container({}), hostPID=True, runtimeClassName="gvisor", nodeName="n"),
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
        "Deployment, gb without a slice",
        workload("Deployment", pod(container({"mpslice.io/gb": 5}))),
        warns=("QuotaMismatch",),
        settings={"quota": True},
    ),
    Case(
        "Job, fewer gb than the slice",
        workload("Job", pod(container({SLICE: 1, "mpslice.io/gb": 5}))),
        warns=("QuotaCorrected",),
        settings={"quota": True},
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
        warns=("PrivilegeEscalation", "ReservedEnvironment"),
    ),
    Case(
        "Deployment, bound",
        workload("Deployment", pod(nodeName="n")),
        warns=("NodeNameSet",),
    ),
    Case(
        "Deployment, host's /run",
        workload("Deployment", host_path("/run")),
        warns=("ReservedMount",),
    ),
    Case(
        "CronJob, init container",
        workload("CronJob", pod(container({}), init=(container(name="setup"),))),
        warns=("SliceInInitContainer",),
    ),
)
