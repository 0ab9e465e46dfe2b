"""The kubelet's checkpoint of device allocations: the one source that has init containers too.

Format: kubelet/cm/devicemanager/checkpoint/checkpoint.go. It is the kubelet's own file, so anything
unexpected in it means "no evidence", never an error: PodResources and our own record remain.
"""

import json
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mpslice.gpus import DeviceId
from nodeagent.container import OWN_PREFIX
from nodeagent.kubelet.podresources import slice_ids
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as api
from nodeagent.slices.evidence import Claim


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`claims` may name pods that have ended; `registered` were healthy when it was written.

    `foreign` are claims of slices that another plugin gave away under our names. `complete` says
    that it could be read.
    """

    claims: tuple[Claim, ...] = ()
    registered: frozenset[DeviceId] = frozenset()
    foreign: tuple[Claim, ...] = ()
    complete: bool = False


def parse_checkpoint(text: bytes) -> Checkpoint:
    """The slices in a checkpoint; empty for what is no checkpoint."""
    try:
        data = json.loads(text)["Data"]
        ours: list[Claim] = []
        foreign: list[Claim] = []
        for entry in data.get("PodDeviceEntries") or ():
            (foreign if _is_foreign(entry) else ours).extend(_claims(entry))
        return Checkpoint(
            complete=True,
            claims=tuple(ours),
            foreign=tuple(foreign),
            registered=frozenset(
                device
                for resource, ids in (data.get("RegisteredDevices") or {}).items()
                for device in slice_ids(resource, ids or ())
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return Checkpoint()


def _is_foreign(entry: Mapping[str, Any]) -> bool:
    """By what Allocate answered, of which the kubelet keeps a copy; ours unless it says otherwise.

    nos's plugin uses the same names for resources and devices.
    """
    try:
        answer = b64decode(entry["AllocResp"])
        response = api.ContainerAllocateResponse.FromString(answer)
    except (DecodeError, KeyError, TypeError, ValueError):
        return False
    return bool(answer) and not any(name.startswith(OWN_PREFIX) for name in response.envs)


def _claims(entry: Mapping[str, Any]) -> Iterable[Claim]:
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
