"""What may be asked for: one slice a container, by its name, of a size that is allowed."""

from tests.webhook.cases.case import Case
from tests.webhook.cases.manifests import GB, SLICE, container, pod
from webhook.verdicts import Reason

QUOTA = {"quota": True}

ASKING = (
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
    Case("megabytes", pod(container({"nvidia.com/gpu-512mb": 1})), Reason.INVALID_SLICE),
    Case("mebibytes", pod(container({"nvidia.com/gpu-20480MiB": 1})), Reason.INVALID_SLICE),
    Case("terabytes", pod(container({"nvidia.com/gpu-1tb": 1})), Reason.INVALID_SLICE),
    Case("a dot for a hyphen", pod(container({"nvidia.com/gpu.10gb": 1})), Reason.INVALID_SLICE),
    Case("in words", pod(container({"nvidia.com/gpu-10-gigabytes": 1})), Reason.INVALID_SLICE),
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
    # QuotaMismatch
    Case(
        "gb without a slice",
        pod(container({GB: 5})),
        Reason.QUOTA_MISMATCH,
        settings=QUOTA,
    ),
    Case(
        "gb without a slice in two containers",
        pod(container({}), container({GB: 5}, name="b"), init=(container({GB: 1}, name="s"),)),
        Reason.QUOTA_MISMATCH,
        (Reason.QUOTA_MISMATCH,),
        settings=QUOTA,
    ),
    Case("gb without a slice, where none is counted", pod(container({GB: 0})), settings=QUOTA),
    Case("a slice with a quota", pod(), settings=QUOTA),
    Case("the gb of the slice", pod(container({SLICE: 1, GB: 10})), settings=QUOTA),
    Case(
        "a LimitRange's default beside a slice", pod(container({SLICE: 1, GB: 0})), settings=QUOTA
    ),
    Case(
        "fewer gb than the slice",
        pod(container({SLICE: 1, GB: 5})),
        warns=("QuotaCorrected",),
        settings=QUOTA,
    ),
    Case(
        "gb of a container beside the slice",
        pod(container(), container({GB: 3}, name="proxy")),
        warns=("QuotaCorrected",),
        settings=QUOTA,
    ),
    Case(
        "gb of an init container that no other takes over",
        pod(init=(container({"nvidia.com/gpu-20gb": 1}, name="setup"),)),
        warns=("SliceInInitContainer",),
        settings=QUOTA,
    ),
    Case(
        "two slices with a quota",
        pod(container({SLICE: 2})),
        Reason.MULTIPLE_SLICES,
        settings=QUOTA,
    ),
    Case("gb without a quota", pod(container({SLICE: 1, GB: 10})), warns=("QuotaCorrected",)),
)
