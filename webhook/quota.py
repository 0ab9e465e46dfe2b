"""How many gb each container is to ask for as mpslice.io/gb, so that quotas count what a pod holds.

The kubelet keeps what it gave to an init container until the pod ends, and gives it again only to a
container that asks for the same size; a ResourceQuota and the scheduler take the larger of init
containers and of what runs. Where those two differ, the pod's first container asks for the rest, so
that the sum which they make (component-helpers/resource, PodRequests) is what the pod really holds.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mpslice.slices import GB_RESOURCE, SliceSize
from webhook.pods import Pod, show, whole_count
from webhook.settings import Settings
from webhook.verdicts import Remark


def charges(pod: Pod, settings: Settings) -> list[int]:
    """The gb of each of the pod's containers, in their order; 0 for all without `quota`."""
    if not settings.quota:
        return [0] * len(pod.containers)
    found = [container.gb if container.slices else 0 for container in pod.containers]
    if left := _left_behind(pod):
        kinds = [container.kind for container in pod.containers]
        if "containers" in kinds:
            found[kinds.index("containers")] += left
    return found


def _left_behind(pod: Pod) -> int:
    """The gb of init containers that have ended which no later container takes over."""
    if not pod.spec.get("initContainers"):
        return 0
    running, most = Counter[SliceSize](), Counter[SliceSize]()
    for container in pod.slice_containers:
        for ask in container.slices:
            if ask.size is None or ask.amount is None:
                continue
            if container.ends:
                most[ask.size] = max(most[ask.size], running[ask.size] + ask.amount)
            else:
                running[ask.size] += ask.amount
    return sum(size * max(0, count - running[size]) for size, count in most.items())


def is_as(amounts: Mapping[str, Any], gb: int) -> bool:
    """Whether limits or requests ask for so many gb; where they do not name them, for none."""
    if GB_RESOURCE not in amounts:
        return not gb
    written = amounts[GB_RESOURCE]
    return bool(written == str(gb)) or whole_count(written) == gb


def corrections(pod: Pod, settings: Settings) -> Iterator[Remark]:
    """Warns of each container that gets another amount than its manifest says.

    0 is what a LimitRange's default says of all containers of its namespace.
    """
    if not pod.slice_containers or not pod.names_gb:
        return
    for container, gb in zip(pod.containers, charges(pod, settings), strict=True):
        written = container.amounts.get(GB_RESOURCE, "0")
        if whole_count(written) not in (0, gb):
            why = "what it counts" if settings.quota else "quota.enabled is false"
            yield Remark(
                "QuotaCorrected",
                container.place,
                f"resources asks for {GB_RESOURCE}: {show(written)}, which becomes {gb} "
                f"({why}); leave it out",
            )
