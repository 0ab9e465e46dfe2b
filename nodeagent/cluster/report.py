"""What the agent says about itself: the NodeLayout's status, the node's resources and annotations.

Pure, from the table of slices, so that the same state is always reported the same way.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mpslice.errors import InvalidQuantity
from mpslice.gpus import DeviceId, GpuUuid, capacity_gb, excluded_gpus
from mpslice.nodelayout import (
    APPLIED_ANNOTATION,
    Condition,
    ConditionType,
    GpuStatus,
    SliceState,
    SliceStatus,
)
from mpslice.quantities import whole
from mpslice.slices import GB_RESOURCE, SliceSize, parse_resource, resource_name, size_label
from nodeagent.container import slice_limit_mib
from nodeagent.gpus.refusals import FOREIGN_PARTITIONER
from nodeagent.hardware import Gpu
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Holder, Pods
from nodeagent.slices.pods import unix_time
from nodeagent.slices.table import SliceTable

_MIRRORED = re.compile(r"nos\.nebuly\.com/status-gpu-[0-9]+-[0-9]+gb-(?:used|free)", re.ASCII)
MESSAGE_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True)
class Amount:
    """A resource in a node's status."""

    capacity: int = 0
    allocatable: int = 0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What concerns us of a Node object; `version` orders two readings of it.

    `annotations` are those that the agent writes, nos's and its own; `excluded` are the GPUs that
    the user keeps; `others` is how many devices of each other extended resource the node offers,
    `gb` the same of mpslice.io/gb, None where the node does not name it. `written` is when the API
    server last wrote the object, in Unix time.
    """

    uid: str = ""
    version: int = 0
    resources: Mapping[SliceSize, Amount] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    others: Mapping[str, int] = field(default_factory=dict)
    gb: Amount | None = None
    written: float = 0.0


def project_node(node: Mapping[str, Any]) -> NodeFacts:
    """Our resources and annotations of a Node object."""
    metadata, status = node["metadata"], node.get("status") or {}
    capacity = _amounts(status.get("capacity"))
    allocatable = _amounts(status.get("allocatable"))
    return NodeFacts(
        uid=str(metadata.get("uid") or ""),
        version=version_of(node),
        resources={
            size: Amount(capacity.get(size, 0), allocatable.get(size, 0))
            for size in capacity.keys() | allocatable.keys()
        },
        annotations={
            key: value
            for key, value in (metadata.get("annotations") or {}).items()
            if key == APPLIED_ANNOTATION or _MIRRORED.fullmatch(key)
        },
        excluded=excluded_gpus(node),
        others=_others(status.get("allocatable")),
        gb=_gb(status.get("capacity") or {}, status.get("allocatable") or {}),
        written=_written(metadata),
    )


def _written(metadata: Mapping[str, Any]) -> float:
    entries = metadata.get("managedFields") or ()
    return max((unix_time(entry.get("time")) for entry in entries), default=0.0)


def version_of(obj: Mapping[str, Any]) -> int:
    """Of two readings of an object the newer has the higher one."""
    # Comparable as numbers: KEP-5504, and so in every etcd-backed API server before it.
    version = str(obj["metadata"].get("resourceVersion") or "")
    return int(version) if version.isdigit() else 0


def _gb(capacity: Mapping[str, Any], allocatable: Mapping[str, Any]) -> Amount | None:
    if GB_RESOURCE not in capacity and GB_RESOURCE not in allocatable:
        return None
    return Amount(*(_count(part.get(GB_RESOURCE)) for part in (capacity, allocatable)))


def _count(quantity: object) -> int:
    try:
        return whole(quantity)
    except InvalidQuantity:
        return -1  # differs from whatever we want


def _others(allocatable: Mapping[str, Any] | None) -> dict[str, int]:
    counts = {}
    for name, quantity in (allocatable or {}).items():
        if "/" in name and name != GB_RESOURCE and parse_resource(name) is None:
            try:
                counts[name] = whole(quantity)
            except InvalidQuantity:
                counts[name] = 1  # something of it is there
    return {name: count for name, count in counts.items() if count > 0}


def _amounts(quantities: Mapping[str, Any] | None) -> dict[SliceSize, int]:
    amounts = {}
    for name, quantity in (quantities or {}).items():
        size = parse_resource(name)
        if size is not None:
            amounts[size] = _count(quantity)
    return amounts


def gpu_statuses(table: SliceTable, settings: Settings) -> tuple[GpuStatus, ...]:
    """`status.gpus`: only slices that the kubelet knows, because pods are let go on it."""
    return tuple(
        GpuStatus(
            uuid=gpu.uuid,
            index=gpu.index,
            product=gpu.product,
            memory_mib=gpu.memory_mib,
            capacity_gb=capacity_gb(gpu.memory_mib, settings.memory_unit),
            healthy=gpu.healthy,
            reason=gpu.objection,
            slices=_slice_statuses(gpu, table, settings),
        )
        for gpu in by_index(table)
    )


def _slice_statuses(gpu: Gpu, table: SliceTable, settings: Settings) -> tuple[SliceStatus, ...]:
    limits: dict[SliceSize, int] = {}  # a GPU has many slices of few sizes
    statuses = []
    for device in filter(table.is_bindable, table.on_gpu(gpu.uuid)):
        if device.size not in limits:
            limits[device.size] = slice_limit_mib(gpu, device, settings)
        statuses.append(_slice_status(device, limits[device.size], table.holders.get(device)))
    return tuple(statuses)


def by_index(table: SliceTable) -> list[Gpu]:
    """The node's GPUs, as the driver counts them."""
    return sorted(table.gpus.values(), key=lambda gpu: gpu.index)


def _slice_status(device: DeviceId, limit_mib: int, holder: Holder | None) -> SliceStatus:
    return SliceStatus(
        id=device,
        limit_mib=limit_mib,
        state=SliceState.FREE if holder is None else SliceState.USED,
        pod=(holder.pod or None) if holder else None,
        container=(holder.container or None) if holder else None,
    )


def node_resources(table: SliceTable) -> dict[SliceSize, Amount]:
    """What the node's status is to say, for every size served: what the kubelet writes too.

    Slices that it does not know yet are left out: a pod bound to one would run without a device.
    """
    known, counted = Counter[SliceSize](), Counter[SliceSize]()
    for device in filter(table.is_bindable, table.slices):
        known[device.size] += 1
        counted[device.size] += table.is_open(device)
    return {size: Amount(known[size], counted[size]) for size in table.sizes}


def used_resources(table: SliceTable, pods: Pods) -> dict[SliceSize, Amount]:
    """The same for an agent that goes away: nothing more can be bound than what `pods` hold.

    What only processes of a pod that is gone still use would be room for another pod.
    """
    used = Counter(device.size for device, holder in table.holders.items() if pods.hold(holder))
    resources = node_resources(table)
    return {
        size: Amount(amount.capacity, min(amount.allocatable, used[size]))
        for size, amount in resources.items()
    }


def offered_gb(table: SliceTable, settings: Settings, *, release: bool) -> int:
    """What the node's status is to say of mpslice.io/gb: never less than its pods ask for.

    A GPU that nothing new goes to counts with what stands there. Counted without it, its pods would
    use up, for the scheduler, the gb of the other GPUs.
    """
    whole_ones = {uuid for uuid, gpu in table.gpus.items() if gpu.healthy and not release}
    capacities = (
        capacity_gb(table.gpus[uuid].memory_mib, settings.memory_unit) for uuid in whole_ones
    )
    standing = {*table.slices, *table.holders}
    return sum(capacities) + sum(device.size for device in standing if device.gpu not in whole_ones)


def mirrored_annotations(gpus: Iterable[GpuStatus]) -> dict[str, str]:
    """nos's status annotations; a count of 0 has none."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        for entry in gpu.slices:
            state = str(entry.state).lower()
            name = f"nos.nebuly.com/status-gpu-{gpu.index}-{size_label(entry.id.size)}-{state}"
            counts[name] = counts.get(name, 0) + 1
    return {name: str(count) for name, count in counts.items()}


def node_patch(
    node: NodeFacts,
    resources: Mapping[SliceSize, Amount],
    annotations: Mapping[str, str],
    gb: Amount | None = None,
    applied: str = "",
) -> dict[str, Any]:
    """The merge patch of nodes/status; {} when the node shows all of it already.

    `gb` None takes mpslice.io/gb away. `applied` is the layout that the slices are those of; it is
    said with the slices and never without them. Sizes that are not served are the kubelet's to
    close: it does so when a plugin ends.
    """
    sizes = sorted(size for size in resources if resources[size] != node.resources.get(size))
    amounts: dict[str, Amount | None] = {resource_name(size): resources[size] for size in sizes}
    if gb != node.gb:
        amounts[GB_RESOURCE] = gb
    status = {
        part: {name: amount and str(getattr(amount, part)) for name, amount in amounts.items()}
        for part in ("capacity", "allocatable")
        if amounts
    }
    if status and applied:
        annotations = {**annotations, APPLIED_ANNOTATION: applied}
    changed = {k: v for k, v in annotations.items() if node.annotations.get(k) != v}
    gone = dict.fromkeys(node.annotations.keys() - annotations.keys())
    metadata = {"annotations": {**changed, **gone}} if changed or gone else {}
    return {
        **({"metadata": metadata} if metadata else {}),
        **({"status": status} if status else {}),
    }


def ready(reason: str = "", message: str = "") -> Condition:
    """The condition Ready; a reason means that it is not."""
    if not reason:
        return Condition(ConditionType.READY, True, "Serving", message[:MESSAGE_LENGTH])
    return Condition(ConditionType.READY, False, reason, message[:MESSAGE_LENGTH])


def readiness(gpus: Collection[Gpu], partitioner: str) -> Condition:
    """The condition Ready by what is left alone: the node is served as long as one GPU is ours.

    `partitioner` says why somebody else's slices are all that may be here, "" when they are not.
    """
    if partitioner:
        return ready(FOREIGN_PARTITIONER, partitioner)
    refused = {gpu.index: gpu.refusal for gpu in gpus if gpu.refusal}
    message = "; ".join(f"GPU {n} is left alone: {r.why}" for n, r in sorted(refused.items()))
    if len(refused) < len(gpus):
        return ready(message=message)
    reasons = {refusal.reason for refusal in refused.values()}
    return ready(reasons.pop() if len(reasons) == 1 else "GpusRefused", message)


def released(table: SliceTable, held: Collection[GpuUuid]) -> Condition:
    """The condition Released, which is there only while the layout says `release`.

    `held` are the GPUs whose MPS daemons have not ended yet.
    """
    left = len(table.slices)
    if left:
        message = f"{left} slices are left until their pods end"
        return Condition(ConditionType.RELEASED, False, "SliceInUse", message)
    if held:
        message = f"the MPS daemons of {', '.join(sorted(held))} are being ended"
        return Condition(ConditionType.RELEASED, False, "MpsStopping", message[:MESSAGE_LENGTH])
    return Condition(ConditionType.RELEASED, True, "Released")
