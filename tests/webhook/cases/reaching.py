"""Other GPUs, and the variables and mounts by which a container reaches its MPS server, or all."""

from tests.webhook.cases.case import Case
from tests.webhook.cases.manifests import (
    CLAIMS,
    FROM_LABEL,
    ONE,
    SCRATCH,
    SLICE,
    container,
    env,
    host_path,
    mount,
    pod,
)
from webhook.verdicts import Reason

REACHING = (
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
        "slice and a device class",
        pod(container({SLICE: 1, "deviceclass.resource.kubernetes.io/gpu.nvidia.com": 1})),
        Reason.SLICE_WITH_WHOLE_GPU,
    ),
    Case(
        "slice beside a device class",
        pod(
            container(),
            container({"deviceclass.resource.kubernetes.io/gpu.nvidia.com": 1}, name="other"),
        ),
    ),
    Case(
        "slice and a claim",
        pod(
            container(resources={"limits": ONE, "claims": [{"name": "nic"}]}),
            **CLAIMS,
        ),
        warns=("SliceWithClaim",),
    ),
    Case(
        "slice beside a claim",
        pod(container(), container(name="nic", resources={"claims": [{"name": "nic"}]}), **CLAIMS),
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
    *(
        Case(
            f"{name} beside the slice",
            pod(container({}, name="side", env=[variable]), container()),
            Reason.RESERVED_ENVIRONMENT,
        )
        for name, variable in (
            ("all devices", {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}),
            ("devices from elsewhere", {"name": "NVIDIA_VISIBLE_DEVICES", **FROM_LABEL}),
            ("another's pipe", {"name": "CUDA_MPS_PIPE_DIRECTORY", "value": "/proc/1/root"}),
            ("a limit", {"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": "0=1G"}),
        )
    ),
    *(
        Case(
            f"devices {value!r} beside the slice",
            pod(
                container(
                    {}, name="side", env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": value}]
                ),
                container(),
            ),
        )
        for value in ("void", "none", "")
    ),
    Case(
        "devices 'void' in the slice's container",
        pod(container(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}])),
        Reason.RESERVED_ENVIRONMENT,
    ),
    Case(
        "all devices in an init container",
        pod(init=(container({}, name="setup", env=env("NVIDIA_VISIBLE_DEVICES")),)),
        Reason.RESERVED_ENVIRONMENT,
    ),
    Case(
        "percentage beside the slice, proportional",
        pod(container({}, name="side", env=env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")), container()),
        Reason.RESERVED_ENVIRONMENT,
        settings={"compute": "proportional"},
    ),
    Case(
        "all devices without slices",
        pod(container({"nvidia.com/gpu": 1}, env=env("NVIDIA_VISIBLE_DEVICES"))),
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
    *(
        Case(f"mount at {path}", pod(mount(path), volumes=SCRATCH), Reason.RESERVED_MOUNT)
        for path in (
            "/tmp/../run/mpslice",
            "/../dev/shm",
            "/a/b/../../c/.././dev//shm/x",
            "/a/../../../dev/shm/",
            "/var/run/../dev/shm",
            "/x/../var/./run/mpslice/pipe",
            "/var/x/../run/mpslice",
            f"/data{'/..' * 8}/dev/shm",
            f"/data{'/..' * 9}/models/mpslice",
        )
    ),
    *(
        Case(f"mount at {path}", pod(mount(path), volumes=SCRATCH))
        for path in (
            "/dev/shm/../shm-of-mine",
            "/dev/shm/..",
            "/run/mpslice/../mine",
            "/dev/...//shm",
            "/dev/..shm",
            "/var/../dev/run/mpslice",
            f"/data{'/..' * 8}/models/mpslice",
        )
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
    *(
        Case(f"host's {path}", host_path(path), Reason.RESERVED_MOUNT)
        for path in (
            "/run/mpslice",
            "/run//mpslice/GPU-1/pipe",
            "/run/",
            "/var/run",
            "/",
            "/proc/1/root/run/mpslice",
            "/proc//self/root",
        )
    ),
    *(
        Case(f"host's {path}", host_path(path))
        for path in ("/runner", "/run/mpslice-other", "/var", "/run/user", "/proc/sys/fs", "/proc")
    ),
    Case(
        "host's / down to the pipes",
        host_path("/", subPath="run/mpslice"),
        Reason.RESERVED_MOUNT,
    ),
    Case(
        "host's /proc down to a link to /",
        host_path("/proc", subPath="1/root"),
        Reason.RESERVED_MOUNT,
    ),
    Case("host's / down to somewhere", host_path("/", subPath="run/lock")),
    Case(
        "host's / down to who knows where",
        host_path("/", subPathExpr="$(HOME)"),
        Reason.RESERVED_MOUNT,
    ),
    Case(
        "host's /run in an init container",
        pod(
            init=(container({}, name="i", volumeMounts=[{"name": "host", "mountPath": "/h"}]),),
            volumes=[{"name": "host", "hostPath": {"path": "/run"}}],
        ),
        Reason.RESERVED_MOUNT,
    ),
    Case(
        "host's / that nobody mounts",
        pod(volumes=[{"name": "host", "hostPath": {"path": "/"}}]),
    ),
    Case(
        "host's /var with the pipes there",
        host_path("/var"),
        Reason.RESERVED_MOUNT,
        settings={"mps_root": "/var/lib/mpslice"},
    ),
    Case(
        "host's /run with the pipes elsewhere",
        host_path("/run"),
        settings={"mps_root": "/var/lib/mpslice"},
    ),
)
