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


class PrivilegeEscalation(StrEnum):
    """The answer to a slice container that lets its processes become root."""

    WARN = "warn"
    DENY = "deny"


class Compute(StrEnum):
    """Whether slices share compute equally or get their share of memory (`mps.compute`)."""

    SHARED = "shared"
    PROPORTIONAL = "proportional"


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults are the chart's. `allowed_sizes` empty means that every size is allowed.

    `pod_runtime_class_name` is the RuntimeClass that slice pods without one get, "" for none;
    with `quota`, slice pods ask for their gb as mpslice.io/gb, too (`webhook.quota`);
    `mps_root` is the folder on the host below which the MPS daemons have their pipes.
    """

    mps_user: int = 1000
    host_ipc: bool = True
    gate: bool = True
    enforcement: Enforcement = Enforcement.DENY
    dev_shm: DevShm = DevShm.DENY
    too_large: TooLarge = TooLarge.WARN
    privilege_escalation: PrivilegeEscalation = PrivilegeEscalation.WARN
    compute: Compute = Compute.SHARED
    pod_runtime_class_name: str = ""
    mps_root: str = "/run/mpslice"
    allowed_sizes: frozenset[SliceSize] = frozenset()
    quota: bool = False
