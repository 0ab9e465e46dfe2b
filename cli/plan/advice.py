"""What to do where no node is handed over: the GPU nodes that were found, and a selector for them;
and flags that change nothing. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cli.plan.hardware import GpuRule, is_whole_gpu
from cli.reading.inventory import Notice
from cli.reading.selectors import Selector
from planner.model.nodes import Node

_KEYS: Final = (
    "nvidia.com/gpu.present",
    "feature.node.kubernetes.io/pci-10de.present",
    "feature.node.kubernetes.io/pci-0302_10de.present",
    "nvidia.com/gpu.product",
    "nvidia.com/gpu.count",
    "cloud.google.com/gke-accelerator",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "accelerator",
    "eks.amazonaws.com/nodegroup",
    "cloud.google.com/gke-nodepool",
    "agentpool",
    "node.kubernetes.io/instance-type",
)
"""Labels by which GPU nodes are picked, those first that say nothing else."""
_TELLING: Final = frozenset(_KEYS[:9])
_MOST_VALUES: Final = 4


NO_NODE_GIVEN: Final = Notice(
    "the input",
    "NoNode",
    "has no Node; add --live, or give what kubectl get nodes -o json prints with -f",
)


NO_GPU_NODE: Final = Notice(
    "the input",
    "NoGpuNode",
    "shows a GPU on none of its nodes; --gpu and --assume-label plan as if they had some",
)


def unused_flags(
    nodes: Sequence[Node], rules: Iterable[GpuRule], assumed: Selector | None
) -> Iterator[Notice]:
    """Warns of `--gpu` and `--assume-label` where their selector picks none of the nodes."""
    flags = [("--gpu", rule.selector) for rule in rules]
    if assumed is not None:
        flags.append(("--assume-label", assumed))
    for flag, selector in flags:
        if nodes and not any(selector.picks(node.labels) for node in nodes):
            yield Notice(f"{flag} {selector.text}", "PicksNoNode", "no node has these labels")


def is_gpu_node(node: Node) -> bool:
    """Whether a label or a resource shows that the node has NVIDIA GPUs."""
    if any(is_whole_gpu(name) and count for name, count in node.allocatable.extended):
        return True
    return any(node.labels.get(key, "false") not in ("false", "") for key in _TELLING)


def selector_for(wanted: Sequence[Node], others: Iterable[Node]) -> str:
    """Returns a short selector of these nodes, if possible one that picks no others."""
    others = list(others)
    for key in _KEYS:
        values = {node.labels.get(key) for node in wanted}
        if None in values or any(node.labels.get(key) in values for node in others):
            continue
        named = sorted(value for value in values if value)
        if len(named) == 1:
            return f"{key}={named[0]}"
        if not any(key in node.labels for node in others):
            return key
        if len(named) <= _MOST_VALUES:
            return f"{key} in ({', '.join(named)})"
    names = sorted(node.labels.get("kubernetes.io/hostname", node.name) for node in wanted)
    if len(names) <= _MOST_VALUES:
        return f"kubernetes.io/hostname in ({', '.join(names)})"
    return "KEY=VALUE"
