"""Who may be evicted for a pod of higher priority, and what keeps others from it.

Evicted are pods with slices that the agents show as theirs. Never those of system priority; no
more members of a group than run above its minimum; no more pods than their PodDisruptionBudget
allows; and none that has two budgets, which the API server refuses to evict at all
(pkg/registry/core/pod/storage/eviction.go).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from mpslice.gpus import GpuUuid
from mpslice.kube.api import Resource
from mpslice.nodelayout import LayoutStatus, NodeLayout, SliceState
from mpslice.slices import SliceSize
from planner.feasibility.selectors import all_hold
from planner.model.pods import Group, Pod
from planner.model.preemption import DisruptionBudget, Hold, Holder, Preemptible
from planner.packing.order import group_minimum
from planner.state.parse import Json
from planner.state.parse_relations import parse_selector

BUDGETS: Final = Resource("policy/v1", "poddisruptionbudgets", namespaced=True)

SYSTEM: Final = 2_000_000_000
"""From this priority on, pods are the system's (pkg/apis/scheduling/types.go,
SystemCriticalPriority)."""

_Slices = tuple[tuple[GpuUuid, SliceSize], ...]


def parse_budget(obj: Json) -> DisruptionBudget:
    """A PodDisruptionBudget object. One whose status is older than its spec allows nothing, as the
    API server has it."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    stale = int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0)
    return DisruptionBudget(
        metadata["namespace"],
        metadata["name"],
        parse_selector(spec.get("selector")),
        0 if stale else int(status.get("disruptionsAllowed") or 0),
    )


def preemptible(
    layouts: Iterable[NodeLayout],
    pods: Iterable[Pod],
    groups: Mapping[str, Group],
    budgets: Iterable[DisruptionBudget],
    *,
    spared: frozenset[str] = frozenset(),
    able: frozenset[str] = frozenset(),
    begun: Mapping[str, Hold] | None = None,
) -> Preemptible:
    """`spared` are the uids of pods that the API server has just refused to evict; `able` and
    `begun` are as in Preemptible.
    """
    bound = [pod for pod in pods if pod.node]
    limits = _Limits(bound, groups, budgets)
    slices = _slices(layouts)
    holders: dict[str, list[Holder]] = {}
    for pod in bound:
        held = slices.get(pod.node, {}).pop(pod.key, ())
        if pod.terminating or (pod.finished and held):
            holders.setdefault(pod.node, []).append(Holder(pod, held, ending=True))
        elif held and not pod.finished and _may_be_evicted(pod, held, spared):
            names = limits.of(pod)
            if names is not None:
                holders.setdefault(pod.node, []).append(Holder(pod, held, limits=names))
    for node, left in slices.items():
        for key, held in left.items():  # its pod is gone, and the slices soon will be free
            namespace, _, name = key.partition("/")
            gone = Pod(namespace, name, node=node, finished=True)
            holders.setdefault(node, []).append(Holder(gone, held, ending=True))
    for each in holders.values():
        each.sort(key=lambda holder: (holder.pod.key, holder.pod.uid))
    return Preemptible(holders, limits.allowed, able, begun or {})


def _may_be_evicted(pod: Pod, held: _Slices, spared: frozenset[str]) -> bool:
    seen = Counter(size for _, size in held)
    return pod.priority < SYSTEM and pod.uid not in spared and seen == Counter(pod.seats)


def _slices(layouts: Iterable[NodeLayout]) -> dict[str, dict[str, _Slices]]:
    """By node and pod key, the slices in use whose pod is known."""
    found: dict[str, dict[str, _Slices]] = {}
    for layout in layouts:
        here = found.setdefault(layout.name, {})
        for gpu in (layout.status or LayoutStatus()).gpus:
            for entry in gpu.slices:
                if entry.state is SliceState.USED and entry.pod:
                    here[entry.pod] = (*here.get(entry.pod, ()), (gpu.uuid, entry.id.size))
    return found


class _Limits:
    """What the evictions of a plan count against."""

    def __init__(
        self, bound: Iterable[Pod], groups: Mapping[str, Group], budgets: Iterable[DisruptionBudget]
    ) -> None:
        self.allowed: dict[str, int] = {}
        self._budgets: dict[str, list[DisruptionBudget]] = {}
        for budget in budgets:
            self._budgets.setdefault(budget.namespace, []).append(budget)
            self.allowed[_name(budget)] = budget.allowed
        going = Counter(pod.group_key for pod in bound if pod.group and pod.terminating)
        for key, group in groups.items():
            self.allowed[f"group {key}"] = group.there - going[key] - group_minimum((), group)

    def of(self, pod: Pod) -> tuple[str, ...] | None:
        """The limits that the pod's eviction counts against; None where it cannot be evicted."""
        found = [*self._names(pod)]
        if len(found) > 1 + bool(pod.group) or any(self.allowed.get(n, 0) < 1 for n in found):
            return None
        return tuple(found)

    def _names(self, pod: Pod) -> Iterator[str]:
        if pod.group:
            yield f"group {pod.group_key}"
        for budget in self._budgets.get(pod.namespace, ()):
            if budget.selector is not None and all_hold(budget.selector, pod.labels):
                yield _name(budget)


def _name(budget: DisruptionBudget) -> str:
    return f"budget {budget.namespace}/{budget.name}"
