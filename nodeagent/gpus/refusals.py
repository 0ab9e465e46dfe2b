"""Which GPUs are left alone, and why. Pure.

On such a GPU nothing is carved and free slices go; what containers hold there stays theirs until
they end.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mpslice.gpus import EXCLUDE_ANNOTATION, GpuUuid, capacity_gb
from mpslice.slices import parse_resource
from nodeagent.hardware import VOLTA, Gpu, Refusal

EXCLUDED: Final = "Excluded"
FOREIGN_PARTITIONER: Final = "ForeignPartitioner"
FOREIGN_PLUGIN: Final = "ForeignPlugin"
MIG_MODE: Final = "MigMode"
NOTHING_LEFT: Final = "NothingLeft"
TOO_OLD: Final = "TooOld"

_WHOLE: Final = frozenset({"nvidia.com/gpu", "nvidia.com/gpu.shared"})
_MIG: Final = "nvidia.com/mig-"
_BY_MINOR = re.compile(r"nvidia([0-9]+)(?:/|$)", re.ASCII)  # GKE's plugin names GPUs so

Devices = Mapping[str, frozenset[str]]
"""Device ids that the kubelet shows, by resource."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What others say of this node's GPUs: `excluded` as in the annotation, `foreign` the resource
    that a GPU is advertised as, `partitioner` why somebody else's slices are all that is here,
    `reserved_mib` what --reserved-memory keeps back of each."""

    excluded: frozenset[str] = frozenset()
    foreign: Mapping[GpuUuid, str] | None = None
    partitioner: str = ""
    reserved_mib: int = 0


def refusals(gpus: Sequence[Gpu], claims: Claims) -> dict[GpuUuid, Refusal]:
    """The GPUs that are left alone."""
    found = {gpu.uuid: _refusal(gpu, claims) for gpu in gpus}
    return {uuid: refusal for uuid, refusal in found.items() if refusal is not None}


def _refusal(gpu: Gpu, claims: Claims) -> Refusal | None:
    if claims.excluded & {gpu.uuid, str(gpu.index)}:
        return Refusal(EXCLUDED, f"the node's annotation {EXCLUDE_ANNOTATION} names it")
    if gpu.mig:
        return Refusal(MIG_MODE, "it is in MIG mode; nvidia-smi -mig 0 ends that")
    if gpu.compute_capability < VOLTA:
        generation = gpu.compute_capability
        why = f"MPS limits no memory before Volta (7.0), and it is of generation {generation}"
        return Refusal(TOO_OLD, why)
    left = gpu.memory_mib - gpu.reserved_mib - claims.reserved_mib
    if left < capacity_gb(gpu.memory_mib):  # a slice of 1gb would be of 0 MiB
        why = f"--reserved-memory and the driver leave {max(0, left)} of its {gpu.memory_mib} MiB"
        return Refusal(NOTHING_LEFT, why)
    if claims.partitioner:
        return Refusal(FOREIGN_PARTITIONER, claims.partitioner)
    resource = (claims.foreign or {}).get(gpu.uuid)
    if resource:
        why = f"another device plugin offers it as {resource}; remove that plugin from this node"
        return Refusal(FOREIGN_PLUGIN, why)
    return None


def with_refusals(gpus: Sequence[Gpu], refused: Mapping[GpuUuid, Refusal]) -> tuple[Gpu, ...]:
    """The GPUs, each with its refusal or none."""
    return tuple(replace(gpu, refusal=refused.get(gpu.uuid)) for gpu in gpus)


def unknown_entries(excluded: Collection[str], gpus: Sequence[Gpu]) -> list[str]:
    """Entries that name no GPU of the node."""
    names = {name for gpu in gpus for name in (gpu.uuid, str(gpu.index))}
    return sorted(set(excluded) - names)


def _is_whole_gpu(resource: str) -> bool:
    """Whether the resource is GPUs as NVIDIA's own plugin offers them: whole, shared or MIG."""
    return resource in _WHOLE or resource.startswith(_MIG)


def foreign_gpus(
    gpus: Sequence[Gpu], devices: Devices, allocatable: Mapping[str, int]
) -> dict[GpuUuid, str]:
    """The GPUs that others offer or hold, with the resource.

    `devices` are all that the kubelet shows; `allocatable` is the node's count of others' devices:
    whole GPUs count against every GPU where the ids do not say which.
    """
    found: dict[GpuUuid, str] = {}
    for resource in sorted(devices.keys() | allocatable.keys()):
        if parse_resource(resource) is None:
            for uuid in _blamed(gpus, resource, devices.get(resource, frozenset()), allocatable):
                found.setdefault(uuid, resource)
    return found


def _blamed(
    gpus: Sequence[Gpu], resource: str, ids: frozenset[str], allocatable: Mapping[str, int]
) -> Collection[GpuUuid]:
    named = {id_: _named(gpus, id_) for id_ in ids}
    uuids = {uuid for uuid in named.values() if uuid is not None}
    unclear = None in named.values() or (not ids and allocatable.get(resource, 0) > 0)
    if not unclear or not _is_whole_gpu(resource):
        return uuids
    mig = {gpu.uuid for gpu in gpus if gpu.mig}
    if resource.startswith(_MIG) and mig:  # a MIG device's id does not tell its GPU
        return uuids | mig
    return {gpu.uuid for gpu in gpus}


def _named(gpus: Sequence[Gpu], device_id: str) -> GpuUuid | None:
    minor = _BY_MINOR.match(device_id)
    for gpu in gpus:
        if gpu.uuid in device_id or (minor is not None and int(minor[1]) == gpu.minor):
            return gpu.uuid
    return None
