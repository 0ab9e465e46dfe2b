"""The nodes of a plan: handed over by label or by a flag, added by a flag, or set aside."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cli.errors import UnusableInput
from cli.plan.advice import (
    NO_GPU_NODE,
    NO_NODE_GIVEN,
    is_gpu_node,
    selector_for,
    unused_flags,
)
from cli.plan.cluster import layout_of, node_of
from cli.plan.hardware import (
    UNKNOWN,
    Assumptions,
    Hardware,
    count_mismatch,
    gpu_count,
    hardware_of,
    holds_gpus,
    identity,
    is_whole_gpu,
)
from cli.plan.options import MoreNodes, Options
from cli.plan.outcome import GpuReport, NodeReport
from cli.reading.inventory import Inventory, Notice
from cli.reading.manifests import Manifest
from cli.terminal import natural
from mpslice.gpus import GpuUuid
from mpslice.nodelayout import (
    ConditionType,
    GpuStatus,
    LayoutSpec,
    LayoutStatus,
    NodeLayout,
    SliceState,
)
from nodeagent.gpus.refusals import FOREIGN_PARTITIONER, FOREIGN_PLUGIN
from planner.model.constraints import Resources
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.sites import serving

_OTHERS: Final = frozenset({FOREIGN_PLUGIN, FOREIGN_PARTITIONER})
_PASSING_TAINT: Final = "node.kubernetes.io/"
_SHOWN: Final = 5


@dataclass(slots=True)
class Fleet:
    """`nodes` are all there are, `layouts` those of the nodes that are handed over, and `hardware`
    says of these which GPUs are left alone. `assumed` are handed over by a flag alone."""

    nodes: list[Node] = field(default_factory=list)
    layouts: dict[str, NodeLayout] = field(default_factory=dict)
    hardware: dict[str, Hardware] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    warnings: list[Notice] = field(default_factory=list)
    candidates: list[Notice] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    """Keys of pods that count as gone because their nodes count as empty (--assume-empty)."""

    @property
    def handed_over(self) -> list[Node]:
        """The nodes that are planned on, without those whose GPUs are unknown."""
        return [
            node
            for node in self.nodes
            if node.name in self.hardware and self.hardware[node.name].reason != UNKNOWN
        ]

    @property
    def largest_gb(self) -> int | None:
        """The capacity of the largest GPU known, healthy or not, as the webhook knows it."""
        statuses = (layout.status for layout in self.layouts.values() if layout.status)
        return max((gpu.capacity_gb for status in statuses for gpu in status.gpus), default=None)

    def reports(self) -> tuple[NodeReport, ...]:
        """Reports on each node that is handed over, in natural order."""
        by_name = {node.name: node for node in self.nodes}
        found = []
        for name, hardware in sorted(self.hardware.items(), key=lambda item: natural(item[0])):
            node = by_name.get(name, Node(name))
            status = hardware.layout.status if hardware.layout else None
            gpus = tuple(_gpu_report(gpu) for gpu in (status.gpus if status else ()))
            found.append(
                NodeReport(
                    name=name,
                    ready=node.ready,
                    cordoned=node.unschedulable,
                    assumed=name in self.assumed,
                    reason=hardware.reason,
                    message=hardware.message,
                    gpus=gpus,
                )
            )
        return tuple(found)


def _gpu_report(gpu: GpuStatus) -> GpuReport:
    reason = "" if gpu.healthy else gpu.reason or "Unhealthy"
    return GpuReport(gpu.uuid, gpu.index, gpu.product, gpu.capacity_gb, reason)


def fleet_of(stock: Inventory, pods: Sequence[Pod], options: Options) -> Fleet:
    """The nodes of the input and of the flags; `pods` are those that are bound to nodes.

    A node that cannot be read or contradicts itself is set aside with a warning. Raises
    UnusableInput for a flag that names a node that is not there.
    """
    fleet = Fleet()
    manifests = {m.obj["metadata"]["name"]: m for m in stock.of("Node")}
    for manifest in manifests.values():
        try:
            # An agent offers mpslice.io/gb as soon as the node is handed over.
            fleet.nodes.append(replace(node_of(manifest), offers_gb=True))
        except UnusableInput as error:
            stock.bad_nodes[manifest.obj["metadata"]["name"]] = str(error)
    for name, why in stock.bad_nodes.items():
        fleet.nodes = [node for node in fleet.nodes if node.name != name]
        fleet.warnings.append(Notice(f"Node {name}", "SetAside", f"is set aside: {why}"))
    layouts = _layouts(stock, fleet)
    _hand_over(fleet, manifests, layouts, _holders(pods), options)
    fleet.layouts = {
        name: found.layout for name, found in fleet.hardware.items() if found.layout is not None
    }
    for more in options.more:
        _add(fleet, manifests, more, options)
    if options.assume_empty:
        fleet.gone = {pod.key for pod in pods if pod.node in fleet.hardware and holds_gpus(pod)}
    fleet.layouts = {name: _freed(each, stock) for name, each in fleet.layouts.items()}
    fleet.warnings += unused_flags(fleet.nodes, options.rules, options.assume_label)
    if not fleet.handed_over:
        fleet.candidates = list(_candidates(fleet) if manifests else [NO_NODE_GIVEN])
    return fleet


def _layouts(stock: Inventory, fleet: Fleet) -> dict[str, NodeLayout]:
    found: dict[str, NodeLayout] = {}
    for manifest in stock.of("NodeLayout"):
        name = manifest.obj["metadata"]["name"]
        try:
            found[name] = layout_of(manifest)
        except UnusableInput as error:
            fleet.warnings.append(Notice(f"Node {name}", "SetAside", f"is set aside: {error}"))
            fleet.nodes = [node for node in fleet.nodes if node.name != name]
    return serving(found.values())


def _holders(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        if holds_gpus(pod):
            found.setdefault(pod.node, []).append(pod)
    return found


def _hand_over(
    fleet: Fleet,
    manifests: Mapping[str, Manifest],
    layouts: Mapping[str, NodeLayout],
    holders: Mapping[str, list[Pod]],
    options: Options,
) -> None:
    key, value = options.label
    for position, node in enumerate(fleet.nodes):
        labelled = node.labels.get(key) == value
        picked = options.assume_label is not None and options.assume_label.picks(node.labels)
        if not labelled and not picked:
            continue
        if not labelled:
            fleet.assumed.add(node.name)
            node = fleet.nodes[position] = replace(node, labels={**node.labels, key: value})
        layout = layouts.get(node.name)
        if layout is not None and layout.status is not None:
            fleet.hardware[node.name] = _reported(layout, options)
            continue
        assumed = Assumptions(options.unit, options.rules, options.assume_empty, not labelled)
        pods = holders.get(node.name, [])
        found = hardware_of(node, manifests[node.name].obj, pods, assumed)
        if found.layout is not None and layout is not None:
            found = replace(found, layout=replace(found.layout, spec=layout.spec))
        fleet.hardware[node.name] = found
        fleet.warnings += _remarks(node, found, assumed=not labelled)


def _remarks(node: Node, found: Hardware, *, assumed: bool) -> Iterator[Notice]:
    name = f"Node {node.name}"
    offered = [n for n, count in node.allocatable.extended if is_whole_gpu(n) and count]
    if offered and assumed and found.reason in ("", FOREIGN_PLUGIN):
        text = f"remove the device plugin that offers {offered[0]} when you hand the node over"
        yield Notice(name, FOREIGN_PLUGIN, text)
    if said := count_mismatch(node, found):
        yield Notice(name, "GPUCount", said)
    if found.reason == UNKNOWN:
        yield Notice(name, "SetAside", f"is set aside: {found.message}")
    elif node.slices:
        text = (
            "shows slices, but its NodeLayout is not in the input: kubectl get nodelayouts -o json"
        )
        yield Notice(name, "NoNodeLayout", text)


def _reported(layout: NodeLayout, options: Options) -> Hardware:
    """A node as its agent has reported it."""
    status = layout.status or LayoutStatus()
    if options.assume_empty:
        gpus = tuple(
            replace(gpu, healthy=True, reason=None) if gpu.reason in _OTHERS else gpu
            for gpu in status.gpus
        )
        status = replace(status, gpus=gpus)
        layout = replace(layout, status=status)
    ready = status.condition(ConditionType.READY)
    if ready is None or not ready.status:
        said = f"its agent is not ready: {ready.message or ready.reason}" if ready else ""
        return Hardware(layout, "NotReady", said or "its agent has not reported yet")
    bad = {gpu.index: gpu.reason or "Unhealthy" for gpu in status.gpus if not gpu.healthy}
    if not bad:
        return Hardware(layout)
    words = sorted(set(bad.values()))
    told = ", ".join(
        f"GPU {', '.join(str(i) for i, reason in sorted(bad.items()) if reason == word)}: {word}"
        for word in words
    )
    return Hardware(layout, words[0], told)


def _freed(layout: NodeLayout, stock: Inventory) -> NodeLayout:
    """Frees the slices of pods that a file replaces, and returns the layout."""
    keys = {each.key for each in stock.replaced if each.kind == "Pod"}
    status = layout.status
    if not keys or status is None:
        return layout
    gpus = tuple(
        replace(
            gpu,
            slices=tuple(
                replace(each, state=SliceState.FREE, pod=None, container=None)
                if each.pod in keys
                else each
                for each in gpu.slices
            ),
        )
        for gpu in status.gpus
    )
    return replace(layout, status=replace(status, gpus=gpus))


def _add(
    fleet: Fleet, manifests: Mapping[str, Manifest], more: MoreNodes, options: Options
) -> None:
    """Adds empty nodes, ready and handed over, that are like an existing one."""
    like = next((node for node in fleet.nodes if node.name == more.like), None)
    if like is None:
        known = sorted((node.name for node in fleet.nodes), key=natural)
        some = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
        raise UnusableInput(
            f"--add-node: no node {more.like} in the input; name one that is ({some or 'none is'})"
        )
    assumed = Assumptions(options.unit, options.rules, emptied=True, handed_over=True)
    found = fleet.hardware.get(more.like)
    if found is None or found.reason:
        obj: Mapping[str, Any] = manifests[more.like].obj
        found = hardware_of(_emptied(like, like.name, options), obj, (), assumed)
    if found.layout is None or found.layout.status is None or not found.layout.status.gpus:
        raise UnusableInput(f"--add-node: node {more.like}: {found.message}")
    taken = {node.name for node in fleet.nodes}
    number = 0
    for _ in range(more.count):
        number += 1
        while f"{more.like}-new-{number}" in taken:
            number += 1
        node = _emptied(like, f"{more.like}-new-{number}", options)
        layout = _fresh(found.layout, node.name)
        fleet.nodes.append(node)
        fleet.layouts[node.name] = layout
        fleet.hardware[node.name] = replace(found, layout=layout)
        fleet.assumed.add(node.name)


def _emptied(like: Node, name: str, options: Options) -> Node:
    key, value = options.label
    labels = {**like.labels, key: value}
    if "kubernetes.io/hostname" in labels:
        labels["kubernetes.io/hostname"] = name
    extended = tuple(
        (resource, count)
        for resource, count in like.allocatable.extended
        if not is_whole_gpu(resource)
    )
    offered = like.allocatable
    return replace(
        like,
        name=name,
        uid="",
        labels=labels,
        taints=tuple(taint for taint in like.taints if not taint.key.startswith(_PASSING_TAINT)),
        unschedulable=False,
        ready=True,
        allocatable=Resources(offered.cpu_milli, offered.memory, offered.ephemeral, extended),
        slices={},
    )


def _fresh(layout: NodeLayout, name: str) -> NodeLayout:
    status = layout.status or LayoutStatus()
    gpus = tuple(
        replace(gpu, uuid=GpuUuid(f"{name}-gpu-{gpu.index}"), slices=()) for gpu in status.gpus
    )
    fresh = replace(status, gpus=gpus, observed_generation=0)
    return NodeLayout(name, spec=LayoutSpec(), status=fresh)


def _candidates(fleet: Fleet) -> Iterator[Notice]:
    """The GPU nodes that are not handed over, by kind, and how to plan as if they were."""
    found = [node for node in fleet.nodes if is_gpu_node(node) and node.name not in fleet.hardware]
    others = [node for node in fleet.nodes if not is_gpu_node(node)]
    if not found:
        yield NO_GPU_NODE
        return
    kinds: dict[tuple[str, str], list[Node]] = {}
    for node in sorted(found, key=lambda node: natural(node.name)):
        known = hardware_of(node, {"metadata": {}}, (), Assumptions(handed_over=True))
        kinds.setdefault((_described(node, known), known.reason), []).append(node)
    for (text, reason), nodes in kinds.items():
        names = ", ".join(node.name for node in nodes[:_SHOWN])
        more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
        yield Notice(f"Node {names}{more}", reason or "NotHandedOver", text)
    selector = selector_for(found, others)
    text = f"add --assume-label '{selector}' to plan as if handed over"
    what = "this GPU node" if len(found) == 1 else f"these {len(found)} GPU nodes"
    yield Notice(what, "NotHandedOver", text)


def _described(node: Node, known: Hardware) -> str:
    status = known.layout.status if known.layout else None
    if status is None or not status.gpus:
        count = dict(node.allocatable.extended).get("nvidia.com/gpu")
        gpus = f"{gpu_count(count)}; " if count else ""
        if known.reason != UNKNOWN:
            return known.message
        rule = f"{identity(node)}={count or 'COUNT'}xMEMORYMiB"
        return f"{gpus}nothing says how large: add --gpu '{rule}'"
    gpu = status.gpus[0]
    product = f" {gpu.product}" if gpu.product else ""
    what = f"{len(status.gpus)} x{product} {gpu.capacity_gb}gb"
    return f"{what}; {known.message}" if known.message else what
