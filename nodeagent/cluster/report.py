"""What the agent says about itself: the NodeLayout's status, the node's resources and annotations.

Pure, from the inventory and the holders, so that the same state is always reported the same way.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mpslice.errors import InvalidQuantity
from mpslice.gpus import DeviceId, GpuUuid, capacity_gb, excluded_gpus
from mpslice.nodelayout import Condition, ConditionType, GpuStatus, SliceState, SliceStatus
from mpslice.quantities import whole
from mpslice.slices import SliceSize, parse_resource, resource_name, size_label
from nodeagent.gpus.refusals import FOREIGN_PARTITIONER
from nodeagent.hardware import Gpu
from nodeagent.kubelet.container import slice_limit_mib
from nodeagent.layout.decision import Blocked, Obstacle, Standing, StandingGpu
from nodeagent.settings import Settings
from nodeagent.slices.holders import Holder, Pods
from nodeagent.slices.inventory import Inventory

Holders = Mapping[DeviceId, Holder]

_MIRRORED = re.compile(r"nos\.nebuly\.com/status-gpu-[0-9]+-[0-9]+gb-(?:used|free)", re.ASCII)
_MESSAGE: Final = 1024


@dataclass(frozen=True, slots=True)
class Amount:
    """A resource in a node's status."""

    capacity: int = 0
    allocatable: int = 0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What concerns us of a Node object; `version` orders two readings of it.

    `annotations` are nos's, which the agent writes; `excluded` are the GPUs that the user keeps;
    `others` is how many devices of each other extended resource the node offers.
    """

    uid: str = ""
    version: int = 0
    resources: Mapping[SliceSize, Amount] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    others: Mapping[str, int] = field(default_factory=dict)


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
            if _MIRRORED.fullmatch(key)
        },
        excluded=excluded_gpus(node),
        others=_others(status.get("allocatable")),
    )


def version_of(obj: Mapping[str, Any]) -> int:
    """Of two readings of an object the newer has the higher one."""
    # Comparable as numbers: KEP-5504, and so in every etcd-backed API server before it.
    version = str(obj["metadata"].get("resourceVersion") or "")
    return int(version) if version.isdigit() else 0


def _others(allocatable: Mapping[str, Any] | None) -> dict[str, int]:
    counts = {}
    for name, quantity in (allocatable or {}).items():
        if "/" in name and parse_resource(name) is None:
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
            try:
                amounts[size] = whole(quantity)
            except InvalidQuantity:
                amounts[size] = -1  # differs from whatever we want
    return amounts


def standing_gpus(
    inventory: Inventory,
    holders: Holders,
    kept: Mapping[DeviceId, Obstacle],
    settings: Settings,
    starting: Collection[GpuUuid] = (),
) -> list[StandingGpu]:
    """The inventory as the decision sees it; the MPS daemons of some GPUs are `starting`."""
    return [
        StandingGpu(
            uuid=gpu.uuid,
            capacity_gb=capacity_gb(gpu.memory_mib, settings.memory_unit),
            healthy=gpu.works,
            refusal=gpu.refusal.why if gpu.refusal else "",
            starting=gpu.uuid in starting,
            slices=tuple(
                Standing(device, used=device in holders, kept=kept.get(device))
                for device in inventory.on_gpu(gpu.uuid)
            ),
        )
        for gpu in _by_index(inventory)
    ]


def gpu_statuses(
    inventory: Inventory, holders: Holders, settings: Settings
) -> tuple[GpuStatus, ...]:
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
            slices=_slice_statuses(gpu, inventory, holders, settings),
        )
        for gpu in _by_index(inventory)
    )


def _slice_statuses(
    gpu: Gpu, inventory: Inventory, holders: Holders, settings: Settings
) -> tuple[SliceStatus, ...]:
    limits: dict[SliceSize, int] = {}  # a GPU has many slices of few sizes
    statuses = []
    for device in filter(inventory.is_bindable, inventory.on_gpu(gpu.uuid)):
        if device.size not in limits:
            limits[device.size] = slice_limit_mib(gpu, device, settings)
        statuses.append(_slice_status(device, limits[device.size], holders.get(device)))
    return tuple(statuses)


def _by_index(inventory: Inventory) -> list[Gpu]:
    return sorted(inventory.gpus.values(), key=lambda gpu: gpu.index)


def _slice_status(device: DeviceId, limit_mib: int, holder: Holder | None) -> SliceStatus:
    return SliceStatus(
        id=device,
        limit_mib=limit_mib,
        state=SliceState.FREE if holder is None else SliceState.USED,
        pod=(holder.pod or None) if holder else None,
        container=(holder.container or None) if holder else None,
    )


def node_resources(inventory: Inventory) -> dict[SliceSize, Amount]:
    """What the node's status is to say, for every size served: what the kubelet writes too.

    Slices that it does not know yet are left out: a pod bound to one would run without a device.
    """
    known, counted = Counter[SliceSize](), Counter[SliceSize]()
    for device in filter(inventory.is_bindable, inventory.slices):
        known[device.size] += 1
        counted[device.size] += inventory.is_open(device)
    return {size: Amount(known[size], counted[size]) for size in inventory.sizes}


def used_resources(inventory: Inventory, holders: Holders, pods: Pods) -> dict[SliceSize, Amount]:
    """The same for an agent that goes away: nothing more can be bound than what `pods` hold.

    What only processes of a pod that is gone still use would be room for another pod.
    """
    used = Counter(device.size for device, holder in holders.items() if pods.hold(holder))
    resources = node_resources(inventory)
    return {
        size: Amount(amount.capacity, min(amount.allocatable, used[size]))
        for size, amount in resources.items()
    }


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
    node: NodeFacts, resources: Mapping[SliceSize, Amount], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """The merge patch of nodes/status; {} when the node shows all of it already.

    Sizes that are not served are the kubelet's to close: it does so when a plugin ends.
    """
    sizes = sorted(size for size in resources if resources[size] != node.resources.get(size))
    status = {
        part: {resource_name(size): str(getattr(resources[size], part)) for size in sizes}
        for part in ("capacity", "allocatable")
        if sizes
    }
    changed = {k: v for k, v in annotations.items() if node.annotations.get(k) != v}
    gone = dict.fromkeys(node.annotations.keys() - annotations.keys())
    metadata = {"annotations": {**changed, **gone}} if changed or gone else {}
    return {
        **({"metadata": metadata} if metadata else {}),
        **({"status": status} if status else {}),
    }


def applied(blocked: Sequence[Blocked]) -> Condition:
    """The condition Applied for what could not be done."""
    if not blocked:
        return Condition(ConditionType.APPLIED, True, "Applied")
    message = "; ".join(entry.message for entry in blocked)
    return Condition(ConditionType.APPLIED, False, str(blocked[0].obstacle), message[:_MESSAGE])


def not_applied(reason: str, message: str) -> Condition:
    """The condition Applied for what could not even be tried."""
    return Condition(ConditionType.APPLIED, False, reason, message[:_MESSAGE])


def ready(reason: str = "", message: str = "") -> Condition:
    """The condition Ready; a reason means that it is not."""
    if not reason:
        return Condition(ConditionType.READY, True, "Serving", message[:_MESSAGE])
    return Condition(ConditionType.READY, False, reason, message[:_MESSAGE])


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


def released(inventory: Inventory, held: Collection[GpuUuid]) -> Condition:
    """The condition Released, which is there only while the layout says `release`.

    `held` are the GPUs whose MPS daemons have not ended yet.
    """
    left = len(inventory.slices)
    if left:
        message = f"{left} slices are left until their pods end"
        return Condition(ConditionType.RELEASED, False, "SliceInUse", message)
    if held:
        message = f"the MPS daemons of {', '.join(sorted(held))} are being ended"
        return Condition(ConditionType.RELEASED, False, "MpsStopping", message[:_MESSAGE])
    return Condition(ConditionType.RELEASED, True, "Released")
