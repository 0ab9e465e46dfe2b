"""What is left alone, what passes, and what the API server answers well enough by itself."""

from tests.webhook.cases.case import Case
from tests.webhook.cases.manifests import (
    NOS,
    NULL_SPEC,
    NULLS,
    ONE,
    SCRATCH,
    SLICE,
    container,
    env,
    mount,
    pod,
    user,
)

PASSING = (
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
    Case("bound already", pod(nodeName="nowhere"), warns=("NodeNameSet",)),
    Case("own environment", pod(container(env=env("CUDA_DEVICE_ORDER", "HOME")))),
    Case("percentage", pod(container(env=env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")))),
    Case("mount elsewhere", pod(mount("/data"), volumes=SCRATCH)),
    Case("mount with a similar name", pod(mount("/dev/shmem"), volumes=SCRATCH)),
    Case("mount above", pod(mount("/run"), volumes=SCRATCH)),
    Case("mount above shm", pod(mount("/dev"), volumes=SCRATCH)),
    Case("absent fields as null", pod(container({SLICE: 1}, **NULLS), **NULL_SPEC)),
    Case("null in place of limits", pod(container(resources={"limits": None, "requests": ONE}))),
    Case("pod-level resources", pod(resources={"limits": {"cpu": "2", "memory": "1Gi"}})),
    Case("for Linux", pod(os={"name": "linux"})),
    Case("for Windows, no slices", pod(container({}), os={"name": "windows"})),
    Case("1000 containers", pod(*(container({}, name=f"c{i}") for i in range(999)), container())),
    Case(
        "9000 variables",
        pod(
            *(
                container({}, name=f"c{i}", env=env(*(f"V{j}" for j in range(900))))
                for i in range(10)
            ),
            container(),
        ),
    ),
    Case(
        "900 mounts, 100 of them of the host",
        pod(
            container(
                volumeMounts=[
                    {"name": f"v{i % 200}", "mountPath": f"/mnt/{i}/shm"} for i in range(900)
                ]
            ),
            volumes=[
                {"name": f"v{i}", **({"emptyDir": {}} if i >= 25 else {"hostPath": {"path": "/a"}})}
                for i in range(200)
            ],
        ),
    ),
    *(
        Case(f"somebody else's {name}", pod(container({f"nvidia.com/{name}": 1})))
        for name in ("gpu0", "gpu-3", "gpu-10", "gpu-3090", "gpu-2080ti", "gpu-a100", "gpu-a10g")
    ),
    Case("somebody else's laptops", pod(container({"nvidia.com/gpu-3080mobile": 1}))),
    Case("somebody else's pools", pod(container({"nvidia.com/gpu-80gb-a100": 1}))),
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
)
