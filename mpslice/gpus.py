"""What a gb of a GPU is: capacity from the total alone, limits from what is left for slices."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NewType

from mpslice.errors import InvalidDeviceId
from mpslice.slices import SliceSize, parse_size_label

GpuUuid = NewType("GpuUuid", str)
"""NVML's UUID, `GPU-` and 36 characters."""

MIB: Final = 1 << 20

MAX_SLICES_PER_GPU: Final = 48
"""Clients of one MPS server on Volta and later (docs.nvidia.com/deploy/mps, "Limitations")."""


class MemoryUnit(Enum):
    """The bytes of one gb; GB is what GPUs are sold in."""

    GB = 10**9
    GiB = 1 << 30


EXCLUDE_ANNOTATION: Final = "mpslice.io/exclude-gpus"
"""On a Node: indexes or UUIDs, with commas between them, of GPUs that are left alone."""


@dataclass(frozen=True, slots=True)
class DeviceId:
    """One slice as the kubelet knows it. Allocate sees ids only, so the id says all."""

    gpu: GpuUuid
    size: SliceSize
    ordinal: int

    def __str__(self) -> str:
        return f"{self.gpu}::{self.size}::{self.ordinal}"

    @classmethod
    def parse(cls, text: str) -> "DeviceId":
        """Reads `<GPU UUID>::<N>::<k>`; raises InvalidDeviceId."""
        return _parse_device_id(text)


@lru_cache(maxsize=4096)  # the kubelet names the same few hundred again and again
def _parse_device_id(text: str) -> DeviceId:
    gpu, _, rest = text.partition("::")
    size, separator, ordinal = rest.partition("::")
    parsed = parse_size_label(f"{size}gb")
    if not gpu or not separator or parsed is None or not _is_ordinal(ordinal):
        raise InvalidDeviceId(f"device id {text!r:.80} is not <GPU UUID>::<gb>::<number>")
    return DeviceId(GpuUuid(gpu), parsed, int(ordinal))


def excluded_gpus(node: Mapping[str, Any]) -> frozenset[str]:
    """The entries of a Node object's annotation: indexes and UUIDs, as they were written."""
    annotation = (node["metadata"].get("annotations") or {}).get(EXCLUDE_ANNOTATION, "")
    return frozenset(entry.strip() for entry in str(annotation).split(",") if entry.strip())


def _is_ordinal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and str(int(text)) == text


def capacity_gb(memory_mib: int, unit: MemoryUnit = MemoryUnit.GB) -> int:
    """The gb that a GPU of so many MiB in total offers, rounded down.

    It needs the total only, so node labels, offline plans and agents agree on it.
    """
    return memory_mib * MIB // unit.value


def limit_mib(
    size: SliceSize,
    *,
    capacity: int,
    memory_mib: int,
    driver_reserved_mib: int,
    mps_reserved_mib: int,
) -> int:
    """The MiB that MPS lets a process in a slice allocate: its share of what the GPU has left.

    `capacity` in gb. What the driver and MPS keep is shared by all slices in proportion, so that
    a GPU carved to the last gb is not oversubscribed. Never below 0.
    """
    usable = max(0, memory_mib - driver_reserved_mib - mps_reserved_mib)
    return size * usable // capacity if capacity > 0 else 0
