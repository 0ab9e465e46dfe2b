"""What must be true of a node at rest, told from the kubelet's word and the pods alone. Pure.

It shares nothing with the agent: ids are taken apart here, and what a layout should have become is
derived anew.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from mpslice.kube.api import Json
from tests.nodeagent.conftest import gpu
from tests.nodeagent.real.cluster import NAMESPACE, KubeletView, Slices, slices_of

CAPACITY = 85  # gb of the simulated GPUs
MOST = 48


def _size(id_: str) -> int:
    return int(id_.split("::")[1])


def stale(view: KubeletView, pods: Iterable[Json]) -> list[str]:
    """Where the checkpoint lags behind the kubelet itself.

    The kubelet writes it out of order (cm/devicemanager/manager.go, writeCheckpoint), so that an
    older one may stand until the next is written.
    """
    names = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods if _holds(pod)}
    told = {id_: names[uid] for id_, uid in view.allocated.items() if uid in names}
    found = []
    if view.registered != view.healthy:
        found.append(f"checkpoint has {sorted(view.registered)}, not {sorted(view.healthy)}")
    if told != view.listed:
        found.append(f"checkpoint says {told}, List says {view.listed}")
    return found


def _holds(pod: Json) -> bool:
    status = pod["status"]
    return bool(status.get("startTime")) and status["phase"] not in ("Succeeded", "Failed")


def disagreements(view: KubeletView, status: Json, pods: Sequence[Json]) -> list[str]:
    """Where the kubelet, the NodeLayout and the pods contradict one another."""
    slices = slices_of(status)
    told = {id_: pod.removeprefix(f"{NAMESPACE}/") for id_, pod in slices.items() if pod}
    found = []
    if view.healthy != slices.keys():
        found.append(f"kubelet knows {sorted(view.healthy)}, layout shows {sorted(slices)}")
    if told != view.listed:
        found.append(f"layout says {told}, kubelet says {view.listed}")
    admitted = sorted(pod["metadata"]["name"] for pod in pods if _holds(pod))
    if admitted != sorted(view.listed.values()):
        found.append(f"pods {admitted} are admitted, kubelet says {view.listed}")
    return found


def departures_from_plan(
    wanted: Sequence[Slices], standing: Iterable[str], held: Collection[str]
) -> list[str]:
    """Where what stands is not what the layout, and the slices that are in use, leave room for."""
    found = []
    for number, slices in enumerate(wanted, start=1):
        ids = [id_ for id_ in standing if id_.startswith(gpu(number))]
        counts = Counter(_size(id_) for id_ in ids)
        used = Counter(_size(id_) for id_ in ids if id_ in held)
        plan = {int(label.removesuffix("gb")): count for label, count in slices.items()}
        left = CAPACITY - sum(size * count for size, count in counts.items())
        if left < 0 or len(ids) > MOST:
            found.append(f"GPU {number} is carved beyond itself: {dict(counts)}")
        found += [
            f"GPU {number}: {counts[size]} of {size}gb, {plan.get(size, 0)} wanted"
            for size in counts.keys() | plan.keys()
            if counts[size] > max(used[size], plan.get(size, 0))
            or (counts[size] < plan.get(size, 0) and left >= size and len(ids) < MOST)
        ]
    return found


def allocatable_of(standing: Iterable[str]) -> Mapping[str, int]:
    """What the node's status has to say of these slices."""
    return Counter(f"nvidia.com/gpu-{_size(id_)}gb" for id_ in standing)
