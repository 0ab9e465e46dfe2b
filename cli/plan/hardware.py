"""A node's GPUs as its agent would see them, where no agent has reported them yet. Pure.

Feature discovery's labels say what is there; the node's status and the pods on it say what other
device plugins offer and hold. The reasons are the agent's own (nodeagent/gpus/refusals.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.reading.selectors import Selector, parse_selector
from mpslice.gpus import MIB, GpuUuid, MemoryUnit, capacity_gb, excluded_gpus
from mpslice.nodelayout import Condition, ConditionType, GpuStatus, LayoutStatus, NodeLayout
from mpslice.slices import MIG_PREFIX, WHOLE_GPU
from nodeagent.gpus.refusals import EXCLUDED, FOREIGN_PLUGIN, MIG_MODE, TOO_OLD
from nodeagent.hardware import VOLTA
from planner.model.nodes import Node
from planner.model.pods import Pod

UNKNOWN: Final = "UnknownGPUs"
"""Nothing says which GPUs the node has."""

_LABEL: Final = "nvidia.com/gpu."
_SHARED_GPU: Final = f"{WHOLE_GPU}.shared"
_MOST_GPUS: Final = 1024
_LEAST_MIB: Final = 1024  # no GPU that mpslice serves has less: it was meant in GB
_MOST_MIB: Final = 1 << 27
_RANGES: Final = {"count": (1, _MOST_GPUS), "memory": (_LEAST_MIB, _MOST_MIB)}
_WANTED: Final = {
    "count": f"write a whole number from 1 to {_MOST_GPUS}",
    "memory": "write the MiB of one GPU, such as 81920",
}
"""What GPU feature discovery writes into its labels."""

_BEFORE_VOLTA: Final = re.compile(r"tesla-[kmp]\d+|nvidia-tesla-[kmp]\d+", re.IGNORECASE)
_MIG_PRODUCT: Final = re.compile(r"-MIG-\d+g\.\d+gb", re.ASCII)
_MIG_OFF: Final = frozenset({"", "all-disabled"})
_GPUS: Final = re.compile(r"(?P<count>\d{1,4})x(?P<amount>\d{1,9})(?P<unit>MiB|Mi|GiB|Gi|GB|G)?")
_UNITS: Final = {"MiB": MIB, "Mi": MIB, "GiB": 1 << 30, "Gi": 1 << 30, "GB": 10**9, "G": 10**9}
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class GpuRule:
    """What `--gpu` says: nodes that the selector picks have so many GPUs of so much memory."""

    selector: Selector
    count: int
    memory_mib: int


def gpu_rule(text: str) -> GpuRule:
    """Reads `SELECTOR=2x40960MiB`; raises ValueError, saying what to write."""
    selector, _, gpus = text.rpartition("=")
    match = _GPUS.fullmatch(gpus)
    if not selector or match is None or match["unit"] is None:
        raise ValueError("is not SELECTOR=COUNTxMEMORY; write for example gpu=a100=2x40960MiB")
    count = int(match["count"])
    memory = int(match["amount"]) * _UNITS[match["unit"]] // MIB
    if not 0 < count <= _MOST_GPUS or not 0 < memory <= _MOST_MIB:
        raise ValueError(f"names {gpus}; write 1 to {_MOST_GPUS} GPUs of at least 1MiB")
    return GpuRule(parse_selector(selector), count, memory)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is planned with besides what the input says.

    `emptied`: other device plugins and the pods that hold GPUs through them are gone.
    `handed_over`: the node gets the label only in the plan, so that another plugin that offers its
    GPUs will be taken off it, but not the pods that hold some.
    """

    unit: MemoryUnit = MemoryUnit.GB
    rules: tuple[GpuRule, ...] = ()
    emptied: bool = False
    handed_over: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """A node's layout, and why some or all of its GPUs are not planned on, "" where none is."""

    layout: NodeLayout | None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Gpus:
    count: int
    memory_mib: int
    product: str


def is_whole_gpu(resource: str) -> bool:
    """Whether NVIDIA's own plugin offers whole, shared or MIG GPUs under this name."""
    return resource in (WHOLE_GPU, _SHARED_GPU) or resource.startswith(MIG_PREFIX)


def holds_gpus(pod: Pod) -> bool:
    """Whether the pod holds GPUs of its node through another device plugin."""
    extended = pod.requests.extended
    return bool(pod.node) and not pod.finished and any(is_whole_gpu(n) and c for n, c in extended)


def hardware_of(
    node: Node, obj: Mapping[str, Any], holders: Sequence[Pod], assumed: Assumptions
) -> Hardware:
    """Returns the GPUs of a node without a NodeLayout; `holders` are its pods with whole GPUs."""
    if why := _mig(node):
        return Hardware(_layout(node, ()), MIG_MODE, f"{why}; nvidia-smi -mig 0 ends that")
    gpus = _gpus(node, assumed)
    if isinstance(gpus, str):
        return Hardware(None, UNKNOWN, gpus)
    left_alone, reason, message = _left_alone(node, gpus, holders, assumed)
    excluded = excluded_gpus(obj)
    statuses = tuple(
        _status(node, gpus, index, _reason(index, excluded, left_alone, reason), assumed.unit)
        for index in range(gpus.count)
    )
    if not message and any(status.reason for status in statuses):
        names = ", ".join(sorted(excluded))
        reason, message = EXCLUDED, f"its annotation leaves GPU {names} out"
    return Hardware(_layout(node, statuses), reason, message)


def _reason(index: int, excluded: frozenset[str], left_alone: int, reason: str) -> str | None:
    if str(index) in excluded:
        return EXCLUDED
    return reason if index < left_alone else None


def _status(node: Node, gpus: _Gpus, index: int, reason: str | None, unit: MemoryUnit) -> GpuStatus:
    return GpuStatus(
        uuid=GpuUuid(f"{node.name}-gpu-{index}"),
        index=index,
        product=gpus.product,
        memory_mib=gpus.memory_mib,
        capacity_gb=capacity_gb(gpus.memory_mib, unit),
        healthy=reason is None,
        reason=reason,
    )


def _layout(node: Node, gpus: tuple[GpuStatus, ...]) -> NodeLayout:
    ready = Condition(ConditionType.READY, True, "FromLabels")
    return NodeLayout(node.name, status=LayoutStatus(gpus=gpus, conditions=(ready,)))


def _mig(node: Node) -> str:
    """Why the node's GPUs are in MIG mode, as feature discovery and the MIG manager show it."""
    product = node.labels.get(f"{_LABEL}product", "")
    if _MIG_PRODUCT.search(product):
        return f"its GPUs are in MIG mode ({product})"
    config = node.labels.get("nvidia.com/mig.config", "")
    offered = [name for name, count in node.allocatable.extended if count and _is_mig(name)]
    if offered:
        return f"its GPUs are in MIG mode (it offers {', '.join(offered[:_SHOWN])})"
    if config not in _MIG_OFF and node.labels.get("nvidia.com/mig.config.state") == "success":
        return f"its GPUs are in MIG mode (nvidia.com/mig.config={config})"
    return ""


def _is_mig(resource: str) -> bool:
    return resource.startswith(MIG_PREFIX)


def _gpus(node: Node, assumed: Assumptions) -> _Gpus | str:
    """Returns the node's GPUs, or a sentence that says what is missing."""
    product = node.labels.get(f"{_LABEL}product", "").removesuffix("-SHARED")
    for rule in assumed.rules:
        if rule.selector.picks(node.labels):
            return _Gpus(rule.count, rule.memory_mib, product)
    found: dict[str, int] = {}
    for key in ("count", "memory"):
        text = node.labels.get(_LABEL + key)
        if text is None:
            continue
        number = _number(text)
        least, most = _RANGES[key]
        if not least <= number <= most:
            return f"label {_LABEL}{key} is {text!r:.60}; {_WANTED[key]}"
        found[key] = number
    missing = [_LABEL + key for key in ("count", "memory") if key not in found]
    if missing:
        said = (
            "no label says" if len(missing) == 2 else f"label {missing[0]} is missing: nothing says"
        )
        what = "which GPUs it has" if len(missing) == 2 else "what its GPUs are"
        count = found.get("count") or dict(node.allocatable.extended).get(WHOLE_GPU) or "COUNT"
        return f"{said} {what}; add --gpu '{identity(node)}={count}xMEMORYMiB'"
    return _Gpus(found["count"], found["memory"], product)


def identity(node: Node) -> str:
    """A selector that picks the node and those of its kind, for advice."""
    keys = ("cloud.google.com/gke-accelerator", "node.kubernetes.io/instance-type")
    for key in (*keys, "kubernetes.io/hostname"):
        if value := node.labels.get(key):
            return f"{key}={value}"
    return "SELECTOR"


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _left_alone(
    node: Node, gpus: _Gpus, holders: Sequence[Pod], assumed: Assumptions
) -> tuple[int, str, str]:
    """How many GPUs, counted from index 0, the agent would leave alone; reason and sentence."""
    if why := _too_old(node):
        return gpus.count, TOO_OLD, why
    if assumed.emptied:
        return 0, "", ""
    held = sum(count for pod in holders for name, count in _whole_gpus(pod))
    offered = {n: c for n, c in node.allocatable.extended if is_whole_gpu(n) and c > 0}
    shared = _number(node.labels.get(f"{_LABEL}replicas", "")) > 1
    by = _names(pod.key for pod in holders)
    if offered and not assumed.handed_over:
        return gpus.count, FOREIGN_PLUGIN, _offered(gpus.count, held, offered, by)
    busy = gpus.count if shared and held else min(held, gpus.count)
    if not busy:
        return 0, "", ""
    return busy, FOREIGN_PLUGIN, f"{gpu_count(busy)} held by {by} through another device plugin"


def _offered(count: int, held: int, offered: Mapping[str, int], by: str) -> str:
    if held >= count:
        return f"{gpu_count(count)} held by {by} through another device plugin"
    names = ", ".join(n if c == count else f"{c} {n}" for n, c in offered.items())
    said = f"{gpu_count(count)} offered as {names} by another device plugin"
    return f"{said}, {held} of them held by {by}" if held else said


def _whole_gpus(pod: Pod) -> Iterable[tuple[str, int]]:
    return ((name, count) for name, count in pod.requests.extended if is_whole_gpu(name))


def gpu_count(count: int) -> str:
    """Returns `1 GPU` or `4 GPUs`."""
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _names(keys: Iterable[str]) -> str:
    found = sorted(keys)
    more = len(found) - _SHOWN
    shown = ", ".join(found[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def count_mismatch(node: Node, found: Hardware) -> str:
    """Warns where labels and another device plugin count GPUs differently; "" where they agree."""
    status = found.layout.status if found.layout else None
    count = len(status.gpus) if status else 0
    offered = dict(node.allocatable.extended).get(WHOLE_GPU, 0)
    replicas = max(1, _number(node.labels.get(f"{_LABEL}replicas", "")))
    if not count or not offered or offered == count * replicas:
        return ""
    return (
        f"labels count {count} GPUs, another device plugin offers {offered}: labels describe one "
        "model of GPU a node, and GPUs that do not work are not offered"
    )


def _too_old(node: Node) -> str:
    """Why the GPUs are from before Volta."""
    major = _number(node.labels.get(f"{_LABEL}compute.major", ""))
    if major:
        if major >= VOLTA.major:
            return ""
        generation = f"{major}.{node.labels.get(f'{_LABEL}compute.minor', '0')}"
        return (
            f"MPS limits no memory before Volta (7.0), and its GPUs are of generation {generation}"
        )
    named = (f"{_LABEL}product", "cloud.google.com/gke-accelerator")
    model = next((node.labels[key] for key in named if key in node.labels), "")
    if _BEFORE_VOLTA.search(model):
        return f"MPS limits no memory before Volta, and its GPUs are {model}"
    return ""
