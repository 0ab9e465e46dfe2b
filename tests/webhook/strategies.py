"""Generated pods and reviews: mostly plausible, so that rules are reached, with junk anywhere."""

from typing import Any

from hypothesis import strategies as st

from tests.webhook.cases import Manifest

_TEXT = st.text(st.characters(codec=None), max_size=8)  # lone surrogates included
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=True, allow_infinity=True)
    | _TEXT
)
json_values: st.SearchStrategy[Any] = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)
)
"""What Python's json writes and reads, NaN and Infinity included."""


def _object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Manifest]:
    """An object in which every field may be absent."""
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def _spoiled(draw: st.DrawFn, whole: st.SearchStrategy[Any]) -> Any:
    """Something whole, in half of the cases with junk in one or two places of its tree."""
    value = draw(whole)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        value = _with_junk(draw, value)
    return value


def _with_junk(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(json_values)
    key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    spoiled = value.copy()  # strategies may hand out the same object twice
    spoiled[key] = _with_junk(draw, value[key])
    return spoiled


RESOURCES = (
    "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-20gb",
    "nvidia.com/gpu-010gb",
    "nvidia.com/gpu-10GB",
    "nvidia.com/gpu-1.5gb",
    "nvidia.com/gpu-0gb",
    "nvidia.com/gpu",
    "nvidia.com/mig-1g.10gb",
    "nvidia.com/gpu.shared",
    "mpslice.io/gb",
    "cpu",
)
_COUNTS = st.sampled_from([1, "1", "1", 0, 2, "500m", "1e0", "1000m", "-1", "1.0", "x", "2k", None])
_AMOUNTS = st.dictionaries(st.sampled_from(RESOURCES), _COUNTS, min_size=1, max_size=3) | st.just(
    {"nvidia.com/gpu-10gb": "1"}
)
_USERS = st.sampled_from([None, 0, 1000, 1000, 1000, "1000", True])
_SECURITY = _object(
    runAsUser=_USERS,
    runAsNonRoot=st.booleans(),
    privileged=st.booleans(),
)
_VARIABLES = st.sampled_from(
    [
        "HOME",
        "NVIDIA_VISIBLE_DEVICES",
        "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    ]
)
_PATHS = st.sampled_from(
    ["/data", "/dev/shm", "/dev//shm/x", "/run/mpslice", "/run", "dev/shm", ""]
)
_CONTAINER = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["main", "side", "n" * 63]),
        "resources": _object(limits=_AMOUNTS, requests=_AMOUNTS),
    },
    optional={
        "securityContext": _SECURITY,
        "env": st.lists(_object(name=_VARIABLES), max_size=2),
        "volumeMounts": st.lists(_object(mountPath=_PATHS), max_size=3),
        "restartPolicy": st.just("Always"),
    },
)
_CONTAINERS = st.lists(_CONTAINER, max_size=2)
_SPEC = st.fixed_dictionaries(
    {"containers": st.lists(_CONTAINER, min_size=1, max_size=2)},
    optional={
        "initContainers": _CONTAINERS,
        "ephemeralContainers": _CONTAINERS,
        "hostIPC": st.booleans(),
        "hostUsers": st.sampled_from([True, True, False]),
        "nodeName": st.sampled_from(["", "n1"]),
        "schedulingGates": st.lists(
            _object(name=st.sampled_from(["mpslice.io/carve", "x"])), max_size=2
        ),
        "securityContext": _SECURITY,
    },
)
_MIRROR = {"annotations": {"kubernetes.io/config.mirror": "x"}}
_PLAIN_PODS = st.fixed_dictionaries(
    {"metadata": st.sampled_from([{}, {}, {}, {}, _MIRROR]).map(dict), "spec": _SPEC}
)
pods = _spoiled(_PLAIN_PODS)
"""Pods, most of which mention slices."""

_OBJECTS = {
    ("", "Pod"): _PLAIN_PODS,
    ("apps", "Deployment"): st.builds(lambda pod: {"spec": {"template": pod}}, _PLAIN_PODS),
    ("batch", "CronJob"): st.builds(
        lambda pod: {"spec": {"jobTemplate": {"spec": {"template": pod}}}}, _PLAIN_PODS
    ),
    ("x", "Pod"): _PLAIN_PODS,
}


def _review(kind: tuple[str, str]) -> st.SearchStrategy[Manifest]:
    objects = _OBJECTS[kind]
    request = st.fixed_dictionaries(
        {
            "uid": st.just("u-1"),
            "kind": st.just({"group": kind[0], "version": "v1", "kind": kind[1]}),
            "operation": st.sampled_from(["CREATE", "CREATE", "UPDATE", "DELETE"]),
            "object": objects,
        },
        optional={"oldObject": objects},
    )
    return st.builds(
        lambda request: {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": request,
        },
        request,
    )


reviews = _spoiled(st.one_of([_review(kind) for kind in _OBJECTS]))
"""AdmissionReviews, and what pretends to be one."""
