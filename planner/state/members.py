"""On which GPUs of a node the pods of spread groups hold slices, or will in a moment."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import LayoutStatus, SliceState
from mpslice.slices import SliceSize
from planner.model.pods import Pod

Members = dict[GpuUuid, frozenset[str]]
"""`Pod.spread_key` of the pods that hold slices, by GPU."""

NOBODY: Final[frozenset[str]] = frozenset()


class _Gpu(Protocol):
    """What is looked at of a GPU."""

    @property
    def uuid(self) -> GpuUuid: ...


G = TypeVar("G", bound=_Gpu)


def members_of(status: LayoutStatus, pods: Iterable[Pod]) -> Members:
    """The spread groups that hold slices, by GPU.

    The agent may not know yet which pod took a slice. Such a slice counts for every pod that waits
    for a slice of its size on this node.
    """
    spread = {pod.key: pod for pod in pods if pod.spread}
    members: Members = {}
    if not spread:
        return members
    used = [
        (gpu.uuid, entry.id.size, entry.pod)
        for gpu in status.gpus
        for entry in gpu.slices
        if entry.state is SliceState.USED
    ]
    held: dict[str, Counter[SliceSize]] = {key: Counter() for key in spread}
    for uuid, size, key in used:
        if key in spread:
            held[key][size] += 1
            join(members, uuid, spread[key])
    for key, pod in spread.items():
        missing = Counter(pod.seats) - held[key]
        for uuid, size, holder in used:
            if not holder and missing[size]:
                join(members, uuid, pod)
    return members


def join(members: Members, uuid: GpuUuid, pod: Pod) -> None:
    """Notes that the pod holds a slice on the GPU."""
    members[uuid] = members.get(uuid, NOBODY) | {pod.spread_key}


def suitable(gpus: Sequence[G], pod: Pod, members: Members) -> Sequence[G]:
    """The GPUs of which a pod that is bound will take a slice: of a spread group, those without
    another pod of it, if there are any.
    """
    if not pod.spread:
        return gpus
    alone = [gpu for gpu in gpus if pod.spread_key not in members.get(gpu.uuid, NOBODY)]
    return alone or gpus
