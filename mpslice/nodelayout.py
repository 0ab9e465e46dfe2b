"""The NodeLayout custom resource as dataclasses, and the codec between them and JSON.

The planner writes `spec`, the agent writes `status`; both, and the CLI, read it through here, so
that the format lives in one place (the CRD's schema in the chart is held to it by a test).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from mpslice.errors import InvalidDeviceId, InvalidNodeLayout
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize, parse_size_label, size_label

API_VERSION: Final = "mpslice.io/v1alpha1"
KIND: Final = "NodeLayout"

Slices = Mapping[SliceSize, int]
"""How many slices of each size stand on one GPU, used and free together."""

Json = dict[str, Any]


class SliceState(StrEnum):
    """Whether the kubelet has allocated the slice to a container."""

    USED = "Used"
    FREE = "Free"


class ConditionType(StrEnum):
    """READY: the agent serves the node. APPLIED: status shows spec. RELEASED: all handed back.

    VERIFIED: what is said of MPS was proved on a GPU of the node; there only once it was tried.
    """

    READY = "Ready"
    APPLIED = "Applied"
    RELEASED = "Released"
    VERIFIED = "Verified"


APPLIED_ANNOTATION: Final = "mpslice.io/applied-layout"
"""On a node: the `version_tag` of the layout that was applied last. It is written with the node's
slices, a moment before the layout's own status, and stays until the next layout is applied."""

STOPPING: Final = "Stopping"
"""Why Ready is False while the agent is replaced."""

KUBELET_UNAVAILABLE: Final = "KubeletUnavailable"
"""Why Ready is False while the kubelet does not answer the agent."""


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """What the planner wants on one GPU."""

    uuid: GpuUuid
    slices: Slices


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """A GPU that is not listed is left as it is; `release` hands the whole node back."""

    gpus: tuple[GpuSpec, ...] = ()
    release: bool = False

    @property
    def counts(self) -> Counter[SliceSize]:
        """How many slices of each size it asks for on all GPUs together."""
        return sum((Counter(dict(gpu.slices)) for gpu in self.gpus), Counter())


@dataclass(frozen=True, slots=True)
class SliceStatus:
    """One bindable slice. `pod` is `namespace/name`, known only while the slice is used."""

    id: DeviceId
    limit_mib: int
    state: SliceState
    pod: str | None = None
    container: str | None = None


@dataclass(frozen=True, slots=True)
class GpuStatus:
    """One GPU as the agent sees it; memory in MiB, capacity in gb."""

    uuid: GpuUuid
    index: int
    product: str
    memory_mib: int
    capacity_gb: int
    healthy: bool = True
    reason: str | None = None
    slices: tuple[SliceStatus, ...] = ()

    @property
    def used_gb(self) -> int:
        return sum(s.id.size for s in self.slices if s.state is SliceState.USED)


@dataclass(frozen=True, slots=True)
class Condition:
    """A Kubernetes condition; `last_transition_time` is RFC 3339."""

    type: ConditionType
    status: bool
    reason: str
    message: str = ""
    last_transition_time: str = ""


@dataclass(frozen=True, slots=True)
class LayoutStatus:
    """What the agent reports; `observed_generation` acknowledges that generation of the spec."""

    observed_generation: int = 0
    gpus: tuple[GpuStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()
    listed: Slices = field(init=False, compare=False, repr=False)
    """How many slices of each size stand on all GPUs together; from `gpus`."""

    def __post_init__(self) -> None:
        listed: dict[SliceSize, int] = {}
        for gpu in self.gpus:
            for entry in gpu.slices:
                size = entry.id.size
                listed[size] = listed.get(size, 0) + 1
        # Kept, because every decision asks for it; this is how a frozen dataclass derives.
        object.__setattr__(self, "listed", listed)

    def condition(self, type_: ConditionType) -> Condition | None:
        for condition in self.conditions:  # asked of every node at every decision
            if condition.type is type_:
                return condition
        return None

    def is_true(self, type_: ConditionType) -> bool:
        condition = self.condition(type_)
        return condition is not None and condition.status


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """A NodeLayout object; its name is the node's, `owner_uid` that of the node it was made for."""

    name: str
    spec: LayoutSpec = field(default_factory=LayoutSpec)
    status: LayoutStatus | None = None
    generation: int = 0
    resource_version: str = ""
    uid: str = ""
    owner_uid: str = ""

    @property
    def version_tag(self) -> str:
        """Names this generation of this object, and of no other that had its name or will."""
        return f"{self.uid}/{self.generation}"


def parse_node_layout(obj: Mapping[str, Any]) -> NodeLayout:
    """Reads a NodeLayout object; raises InvalidNodeLayout, naming the node and the bad field.

    A spec that no longer parses is an error too: nobody may act on half of a layout.
    """
    metadata = obj.get("metadata") or {}
    name = str(metadata.get("name", ""))
    status = obj.get("status")
    try:
        return NodeLayout(
            name=name,
            spec=_parse_spec(obj.get("spec") or {}),
            status=_parse_status(status) if status else None,
            generation=int(metadata.get("generation", 0)),
            resource_version=str(metadata.get("resourceVersion", "")),
            uid=str(metadata.get("uid", "")),
            owner_uid=_owner_uid(metadata),
        )
    except (InvalidDeviceId, InvalidNodeLayout) as error:
        raise InvalidNodeLayout(f"NodeLayout {name}: {error}") from error
    except KeyError as error:
        raise InvalidNodeLayout(f"NodeLayout {name}: field {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidNodeLayout(
            f"NodeLayout {name}: a field has another type than in the CRD ({error})"
        ) from error


def _owner_uid(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("kind") == "Node"), "")


def _parse_spec(spec: Mapping[str, Any]) -> LayoutSpec:
    gpus = tuple(
        GpuSpec(GpuUuid(str(gpu["uuid"])), parse_slices(gpu.get("slices") or {}))
        for gpu in spec.get("gpus") or ()
    )
    _refuse_twice(gpu.uuid for gpu in gpus)
    return LayoutSpec(gpus=gpus, release=bool(spec.get("release", False)))


def parse_slices(slices: Mapping[str, Any]) -> Slices:
    """Reads `{10gb: 2, 20gb: 1}`; raises InvalidNodeLayout for a bad size or count."""
    parsed: dict[SliceSize, int] = {}
    for label, count in slices.items():
        size = parse_size_label(label)
        if size is None or not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidNodeLayout(f"slices {{{label!r}: {count!r}}} is not <N>gb: count")
        if count:
            parsed[size] = count
    return parsed


def _parse_status(status: Mapping[str, Any]) -> LayoutStatus:
    gpus = tuple(_parse_gpu(gpu) for gpu in status.get("gpus") or ())
    _refuse_twice(gpu.uuid for gpu in gpus)
    _refuse_twice(str(s.id) for gpu in gpus for s in gpu.slices)
    return LayoutStatus(
        observed_generation=int(status.get("observedGeneration", 0)),
        gpus=gpus,
        conditions=tuple(
            _parse_condition(c)
            for c in status.get("conditions") or ()
            if c["type"] in ConditionType.__members__.values()
        ),
    )


def _refuse_twice(ids: Any) -> None:
    seen: set[str] = set()
    for item in ids:
        if item in seen:
            raise InvalidNodeLayout(f"{item} is listed twice")
        seen.add(item)


def _parse_gpu(gpu: Mapping[str, Any]) -> GpuStatus:
    parsed = GpuStatus(
        uuid=GpuUuid(str(gpu["uuid"])),
        index=int(gpu["index"]),
        product=str(gpu.get("product", "")),
        memory_mib=int(gpu["memoryMiB"]),
        capacity_gb=int(gpu["capacityGB"]),
        healthy=bool(gpu.get("healthy", True)),
        reason=gpu.get("reason"),
        slices=tuple(_parse_slice(s) for s in gpu.get("slices") or ()),
    )
    stray = next((s.id for s in parsed.slices if s.id.gpu != parsed.uuid), None)
    if stray is not None:
        raise InvalidNodeLayout(f"GPU {parsed.uuid} lists the slice {stray} of another GPU")
    return parsed


def _parse_slice(entry: Mapping[str, Any]) -> SliceStatus:
    return SliceStatus(
        id=DeviceId.parse(entry["id"]),
        limit_mib=int(entry.get("limitMiB", 0)),
        state=SliceState(entry["state"]),
        pod=_optional_text(entry, "pod"),
        container=_optional_text(entry, "container"),
    )


def _optional_text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidNodeLayout(f"{key} of slice {entry['id']} is {value!r:.60}, which is no text")
    return value


def _parse_condition(entry: Mapping[str, Any]) -> Condition:
    return Condition(
        type=ConditionType(entry["type"]),
        status=entry["status"] == "True",
        reason=str(entry.get("reason", "")),
        message=str(entry.get("message", "")),
        last_transition_time=str(entry.get("lastTransitionTime", "")),
    )


def slices_to_json(slices: Slices) -> dict[str, int]:
    """`{"10gb": 2, "20gb": 1}`, smallest first, without zeros."""
    return {size_label(size): slices[size] for size in sorted(slices) if slices[size]}


def spec_to_json(spec: LayoutSpec) -> Json:
    """The `spec` of a NodeLayout object."""
    return {
        "release": spec.release,
        "gpus": [{"uuid": gpu.uuid, "slices": slices_to_json(gpu.slices)} for gpu in spec.gpus],
    }


def status_to_json(status: LayoutStatus) -> Json:
    """The `status` of a NodeLayout object, with the summary that `kubectl get` prints."""
    capacity = sum(gpu.capacity_gb for gpu in status.gpus)
    used = sum(gpu.used_gb for gpu in status.gpus)
    return {
        "observedGeneration": status.observed_generation,
        "summary": {
            "gpus": len(status.gpus),
            "capacityGB": capacity,
            "usedGB": used,
            "freeGB": capacity - used,
        },
        "gpus": [_gpu_to_json(gpu) for gpu in status.gpus],
        "conditions": [condition_to_json(c) for c in status.conditions],
    }


def _gpu_to_json(gpu: GpuStatus) -> Json:
    reason = {} if gpu.reason is None else {"reason": gpu.reason}
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "product": gpu.product,
        "memoryMiB": gpu.memory_mib,
        "capacityGB": gpu.capacity_gb,
        "healthy": gpu.healthy,
        **reason,
        "slices": [_slice_to_json(s) for s in gpu.slices],
    }


def _slice_to_json(entry: SliceStatus) -> Json:
    holder = {"pod": entry.pod, "container": entry.container}
    return {
        "id": str(entry.id),
        "size": size_label(entry.id.size),
        "limitMiB": entry.limit_mib,
        "state": str(entry.state),
        **{key: value for key, value in holder.items() if value is not None},
    }


def condition_to_json(condition: Condition) -> Json:
    """One entry of `status.conditions`."""
    return {
        "type": str(condition.type),
        "status": "True" if condition.status else "False",
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time,
    }


def merge_conditions(
    old: Sequence[Condition], new: Sequence[Condition], *, now: str
) -> tuple[Condition, ...]:
    """`new` with the transition times of `old` where the status did not change (KEP-1623)."""
    before = {condition.type: condition for condition in old}
    return tuple(_with_time(condition, before.get(condition.type), now) for condition in new)


def _with_time(condition: Condition, before: Condition | None, now: str) -> Condition:
    same = before is not None and before.status == condition.status
    time = before.last_transition_time if same and before is not None else now
    return Condition(condition.type, condition.status, condition.reason, condition.message, time)
