"""Keeps the pods of a spread group on GPUs of their own where the kubelet chooses among slices.

The kubelet never says for which pod it asks. So a slice is preferred that suits every pod that may
be meant, one is refused that suits none of them, and no container starts beside another pod of its
group: by then it is known whose it is.
"""

from collections.abc import Iterable, Iterator, Sequence

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.slices.evidence import Holder
from nodeagent.slices.pods import PodFacts
from nodeagent.slices.table import SliceTable


def by_suitability(table: SliceTable, devices: Sequence[DeviceId]) -> Iterator[Sequence[DeviceId]]:
    """The devices beside no pod that a pod which may be meant has to be kept apart from; then
    those as well that are beside slices of which it is not known yet who has them.
    """
    groups = {pod.spread for size in {d.size for d in devices} for pod in _awaiting(table, size)}
    groups.discard("")
    if not groups:
        return
    known = {gpu for group in groups for gpu in _gpus_of(table, group)}
    unknown = {id_.gpu for id_, holder in table.holders.items() if holder == Holder()}
    yield [device for device in devices if device.gpu not in known | unknown]
    yield [device for device in devices if device.gpu not in known]


def refusal(table: SliceTable, device: DeviceId) -> str:
    """Why no pod that may be meant can have the slice; "" where one can, or that is not known."""
    if any(table.get(id_).asked for id_ in table.slices if id_.size == device.size):
        return ""
    awaiting = _awaiting(table, device.size)
    others = [other for pod in awaiting for other in _siblings(table, pod, device.gpu)[:1]]
    if not awaiting or len(others) < len(awaiting):
        return ""
    return _beside(device, others[0])


async def until_known(table: SliceTable, device: DeviceId) -> None:
    """Returns once the pod that has the slice is known. Returns at once where no pod of a spread
    group has another slice of the GPU, because then any pod may start. The caller sets a deadline.
    """
    while _holder(table, device) is None and _spread_on(table, device):
        await table.held.after(table.held.count)


def obstacle(table: SliceTable, device: DeviceId) -> str:
    """Why the container that holds the slice may not start; "" where it may."""
    pod = _holder(table, device)
    others = [] if pod is None else _siblings(table, pod, device.gpu)
    return _beside(device, others[0]) if others else ""


def _holder(table: SliceTable, device: DeviceId) -> PodFacts | None:
    holder, pods = table.get(device).holder, table.pods()
    return None if holder is None else pods.live(pods.uid_of(holder))


def _spread_on(table: SliceTable, device: DeviceId) -> bool:
    """Whether a pod of a spread group has another slice of the GPU."""
    pods = table.pods()
    others = (h for id_, h in table.holders.items() if id_.gpu == device.gpu and id_ != device)
    found = (pods.live(pods.uid_of(holder)) for holder in others)
    return any(pod is not None and pod.spread for pod in found)


def _beside(device: DeviceId, other: PodFacts) -> str:
    return (
        f"slice {device} is on the GPU of pod {other.key} of the same group, whose pods "
        "mpslice.io/spread keeps apart; delete one of the two, so that it is placed anew"
    )


def _awaiting(table: SliceTable, size: SliceSize) -> list[PodFacts]:
    """The pods of this node that need a slice of the size and are not seen to have it."""
    return [
        pod
        for pod in table.pods().by_uid.values()
        if not pod.ended and pod.needs_any((size,)) and not table.reading.shows(pod)
    ]


def _siblings(table: SliceTable, pod: PodFacts, gpu: GpuUuid) -> list[PodFacts]:
    """The other pods of the pod's spread group that hold slices of the GPU."""
    if not pod.spread:
        return []
    holders = (other for id_, other in _members(table, pod.spread) if id_.gpu == gpu)
    return [other for other in holders if other.uid != pod.uid]


def _gpus_of(table: SliceTable, group: str) -> Iterable[GpuUuid]:
    return {id_.gpu for id_, _ in _members(table, group)}


def _members(table: SliceTable, group: str) -> Iterator[tuple[DeviceId, PodFacts]]:
    """The slices that pods of the group hold, each with its pod."""
    pods = table.pods()
    for id_, holder in table.holders.items():
        pod = pods.live(pods.uid_of(holder))
        if pod is not None and pod.spread == group:
            yield id_, pod
