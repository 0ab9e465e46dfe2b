"""Which GPUs are healthy, and when a sick one is well again. Pure.

A critical Xid that is not an application's own fault makes its GPU unhealthy, as with NVIDIA's
device plugin. It is healthy again when a minute has passed without another, it answers, and the
driver asks for no recovery action ("None: the GPU can be used again by starting a new process",
docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt, "Error Recovery and Response Flags"). A driver that
cannot say so (before 550) leaves it unhealthy until the agent starts anew, as NVIDIA's plugin does.
A GPU for which the driver does ask for one is unhealthy without any Xid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mpslice.gpus import GpuUuid
from nodeagent.errors import GpuLost, GpuNeedsReset, NvmlError
from nodeagent.hardware import Gpu

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Faults of applications, after which the GPU is fit (k8s-device-plugin, internal/rm/health.go)."""

RECOVERY_CHANGED: Final = 154
"""Says that the recovery action is another one now; so it is looked at."""

CALM_SECONDS: Final = 60.0

XID_ERROR: Final = "XidError"


@dataclass(frozen=True, slots=True)
class IgnoredXids:
    """Xids that say nothing against a GPU; with `all` none does."""

    numbers: frozenset[int] = APPLICATION_XIDS
    all: bool = False

    def __contains__(self, xid: object) -> bool:
        return self.all or xid in self.numbers or xid == RECOVERY_CHANGED

    def __or__(self, other: "IgnoredXids") -> "IgnoredXids":
        return IgnoredXids(self.numbers | other.numbers, self.all or other.all)


NVIDIAS_LIST: Final = IgnoredXids()


def parse_ignored_xids(text: str) -> IgnoredXids:
    """`48,63`, `all` or NVIDIA's word for it, `xids`, each beside NVIDIA's own list; ValueError."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    everything = [word for word in words if word in ("all", "xids")]
    numbers = [word for word in words if word not in everything]
    if not all(word.isascii() and word.isdigit() for word in numbers):
        raise ValueError("is not a list of Xids; write for example 48,63, or all")
    return IgnoredXids(APPLICATION_XIDS | {int(word) for word in numbers}, bool(everything))


@dataclass(frozen=True, slots=True)
class SeenXid:
    """The last critical error of a GPU; `at` on the monotonic clock."""

    number: int
    at: float


@dataclass(frozen=True, slots=True)
class Look:
    """What the driver said at one look. `failure` is why it said nothing at all.

    `recovery` tells for each GPU that answered whether it needs some, None where nobody knows.
    """

    gpus: tuple[Gpu, ...] = ()
    silent: Mapping[int, NvmlError] = field(default_factory=dict)
    recovery: Mapping[GpuUuid, bool | None] = field(default_factory=dict)
    failure: NvmlError | None = None


def judge(
    known: Sequence[Gpu], look: Look, xids: Mapping[GpuUuid, SeenXid], now: float
) -> tuple[Gpu, ...]:
    """All GPUs by index, with the reasons why they are not healthy; a known one never vanishes."""
    if look.failure is not None:
        return tuple(_sick(gpu, look.failure) for gpu in known)
    found = {gpu.uuid for gpu in look.gpus}
    missing = [gpu for gpu in known if gpu.uuid not in found]
    lost = GpuLost("the driver shows it no more")
    judged = [
        *(_examine(gpu, look.recovery.get(gpu.uuid), xids.get(gpu.uuid), now) for gpu in look.gpus),
        *(_sick(gpu, look.silent.get(gpu.index, lost)) for gpu in missing),
    ]
    return tuple(sorted(judged, key=lambda gpu: gpu.index))


def _examine(gpu: Gpu, needs_recovery: bool | None, xid: SeenXid | None, now: float) -> Gpu:
    if needs_recovery:
        detail = f"after Xid {xid.number}" if xid else "the driver asks for it"
        return replace(gpu, reason=GpuNeedsReset.condition, detail=detail)
    if xid is not None and not (needs_recovery is False and now - xid.at >= CALM_SECONDS):
        return replace(gpu, reason=XID_ERROR, detail=f"Xid {xid.number}")
    return gpu


def _sick(gpu: Gpu, error: NvmlError) -> Gpu:
    return replace(gpu, reason=error.condition, detail=str(error))


def still_ailing(gpus: Sequence[Gpu], xids: Mapping[GpuUuid, SeenXid]) -> dict[GpuUuid, SeenXid]:
    """Without the Xids of GPUs that were judged healthy: they are over."""
    healthy = {gpu.uuid for gpu in gpus if gpu.healthy}
    return {uuid: xid for uuid, xid in xids.items() if uuid not in healthy}
