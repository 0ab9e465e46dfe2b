"""The kubelet's checkpoint of device allocations: the one source that has init containers too.

Format: kubelet/cm/devicemanager/checkpoint/checkpoint.go. It is the kubelet's own file, so anything
unexpected in it means "no evidence", never an error: PodResources and our own record remain.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpslice.gpus import DeviceId
from nodeagent.holders import Claim
from nodeagent.podresources import slice_ids


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`claims` may name pods that have ended; `registered` were healthy when it was written."""

    claims: tuple[Claim, ...] = ()
    registered: frozenset[DeviceId] = frozenset()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """The slices in a checkpoint; empty for what is no checkpoint."""
    try:
        data = json.loads(text)["Data"]
        return Checkpoint(
            claims=tuple(_claims(data.get("PodDeviceEntries") or ())),
            registered=frozenset(
                device
                for resource, ids in (data.get("RegisteredDevices") or {}).items()
                for device in slice_ids(resource, ids or ())
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return Checkpoint()


def _claims(entries: Iterable[Mapping[str, Any]]) -> Iterable[Claim]:
    for entry in entries:
        by_numa_node = entry["DeviceIDs"] or {}
        ids = [device for ids in by_numa_node.values() for device in ids]
        for device in slice_ids(entry["ResourceName"], ids):
            yield Claim(device, entry["ContainerName"], uid=entry["PodUID"])


def read_checkpoint(file: Path) -> Checkpoint:
    """The slices in the kubelet's checkpoint file; empty when there is none. Blocks."""
    try:
        return parse_checkpoint(file.read_bytes())
    except OSError:
        return Checkpoint()
