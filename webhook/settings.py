"""What a cluster's administrator decides about admission; the flags and Helm values, parsed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mpslice.slices import SliceSize

GATE: Final = "mpslice.io/carve"
"""The scheduling gate that the planner takes away once the pod's slices are bindable."""


class Enforcement(StrEnum):
    """Whether a bad slice pod is refused or only warned about."""

    DENY = "deny"
    WARN = "warn"


class DevShm(StrEnum):
    """What becomes of a mount over /dev/shm: the pod is refused, or the mount is taken away."""

    DENY = "deny"
    STRIP = "strip"


class TooLarge(StrEnum):
    """What a slice larger than every known GPU gets; nodes may yet be added."""

    DENY = "deny"
    WARN = "warn"


class Compute(StrEnum):
    """Whether slices share compute equally or get their share of memory (`mps.compute`)."""

    SHARED = "shared"
    PROPORTIONAL = "proportional"


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults are the chart's. `allowed_sizes` empty means that every size is allowed."""

    mps_user: int = 1000
    host_ipc: bool = True
    gate: bool = True
    enforcement: Enforcement = Enforcement.DENY
    dev_shm: DevShm = DevShm.DENY
    too_large: TooLarge = TooLarge.WARN
    compute: Compute = Compute.SHARED
    allowed_sizes: frozenset[SliceSize] = frozenset()
