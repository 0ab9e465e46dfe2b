"""`kubectl mpslice plan`: the webhook's and the planner's own decisions over manifests.

Nothing is decided here: input is gathered, admission and planning are called, answers collected.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cli.cluster import (
    Priorities,
    check_pod,
    labelled_layout,
    layout_of,
    node_of,
    pod_of,
    priorities,
)
from cli.manifests import Manifest, read_manifests
from cli.shapes import check_manifest
from cli.workloads import KINDS, expand
from mpslice.gpus import MemoryUnit
from mpslice.nodelayout import NodeLayout
from planner.decide import serving
from planner.model import GATE, Node, Placement, Plan, Pod, Refusal, Snapshot
from planner.packing import plan, solver_is_installed
from planner.state.parse import Labels, parse_namespace
from planner.state.podgroups import minimum_of
from planner.state.snapshot import build_snapshot
from planner.words.explain import refusal_text
from webhook.offline import admit
from webhook.settings import Settings

Label = tuple[str, str]

# The API group of each kind that is read; others have kinds of these names too.
_GROUPS = {
    "Node": "",
    "Pod": "",
    "Namespace": "",
    "NodeLayout": "mpslice.io",
    "PriorityClass": "scheduling.k8s.io",
    "PodGroup": "scheduling.x-k8s.io",
    "Job": "batch",
    **dict.fromkeys(KINDS - {"Job"}, "apps"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """The flags that mean the same as those of the programs."""

    mps_user: int = 1000
    unit: MemoryUnit = MemoryUnit.GB
    max_slices_per_gpu: int = 48
    label: Label = ("nos.nebuly.com/gpu-partitioning", "mps")


@dataclass(frozen=True, slots=True)
class Complaint:
    """A pod that was rejected or cannot be placed: a reason of a closed list, and a sentence."""

    pod: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the command prints; seconds of reading and of planning."""

    rejected: tuple[Complaint, ...]
    warnings: tuple[Complaint, ...]
    placed: tuple[Placement, ...]
    unplaced: tuple[Complaint, ...]
    plan: Plan
    snapshot: Snapshot
    read_seconds: float
    plan_seconds: float


@dataclass(frozen=True, slots=True)
class _Input:
    nodes: tuple[Node, ...]
    layouts: dict[str, NodeLayout]
    pods: tuple[Manifest, ...]
    ranks: Priorities
    namespaces: dict[str, Labels]
    minimums: dict[str, int]


def run(files: Iterable[str], options: Options) -> Outcome:
    """Reads and decides; raises UnusableInput."""
    started = time.perf_counter()
    given = _read(files, options)
    rejected: list[Complaint] = []
    warnings: list[Complaint] = []
    pods = list(_admitted(given, options, rejected, warnings))
    read = time.perf_counter()
    snapshot = build_snapshot(
        (node for node in given.nodes if _is_labelled(node, options.label)),
        serving(given.layouts.values()),
        pods,
        max_slices_per_gpu=options.max_slices_per_gpu,
        minimums=given.minimums,
        all_nodes=given.nodes,
        namespaces=given.namespaces,
    )
    waiting = (pod for pod in pods if pod.is_pending)
    made = plan(snapshot, waiting, solver=solver_is_installed())
    planned = time.perf_counter()
    return Outcome(
        rejected=tuple(rejected),
        warnings=tuple(warnings),
        placed=made.placements,
        unplaced=(
            *(_unplaced(refusal, options.label) for refusal in made.refusals),
            *(_gated(pod) for pod in pods if _waits_for_others(pod)),
        ),
        plan=made,
        snapshot=snapshot,
        read_seconds=read - started,
        plan_seconds=planned - read,
    )


def _read(files: Iterable[str], options: Options) -> _Input:
    by_kind: dict[str, list[Manifest]] = {}
    skipped: Counter[str] = Counter()
    for manifest in read_manifests(files):
        if manifest.group in (None, _GROUPS.get(manifest.kind)) and manifest.kind in _GROUPS:
            check_manifest(manifest)
            by_kind.setdefault(manifest.kind, []).append(manifest)
        else:
            skipped[manifest.kind] += 1
    _refuse_twice(by_kind)
    _tell_skipped(skipped)
    nodes = [node_of(manifest) for manifest in by_kind.get("Node", ())]
    layouts = {m.obj["metadata"]["name"]: layout_of(m) for m in by_kind.get("NodeLayout", ())}
    for manifest, node in zip(by_kind.get("Node", ()), nodes, strict=True):
        layout = layouts.get(node.name)
        if _is_labelled(node, options.label) and (layout is None or layout.status is None):
            layouts[node.name] = labelled_layout(manifest, node, options.unit)
    workloads = [manifest for kind in sorted(KINDS) for manifest in by_kind.get(kind, ())]
    for workload in workloads:
        check_pod(workload, ("spec", "template", "spec"))
    pods = by_kind.get("Pod", [])
    for pod in pods:
        check_pod(pod)
    return _Input(
        nodes=tuple(nodes),
        layouts=layouts,
        pods=(*pods, *expand(workloads, pods, nodes)),
        ranks=priorities(by_kind.get("PriorityClass", ())),
        namespaces={
            m.obj["metadata"]["name"]: parse_namespace(m.obj) for m in by_kind.get("Namespace", ())
        },
        minimums={
            m.key: least
            for m in by_kind.get("PodGroup", ())
            if (least := minimum_of(m.obj)) is not None
        },
    )


def _refuse_twice(by_kind: dict[str, list[Manifest]]) -> None:
    for manifests in by_kind.values():
        seen: set[str] = set()
        for manifest in manifests:
            if manifest.key in seen:
                raise manifest.complaint("is given twice; leave one of them out")
            seen.add(manifest.key)


def _tell_skipped(skipped: Counter[str]) -> None:
    if skipped:
        text = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        print(f"skipped, since they do not bear on slices: {text}", file=sys.stderr)


def _is_labelled(node: Node, label: Label) -> bool:
    return node.labels.get(label[0]) == label[1]


def _admitted(
    given: _Input, options: Options, rejected: list[Complaint], warnings: list[Complaint]
) -> Iterator[Pod]:
    """The pods as the API server would store them; those that it refuses are listed instead."""
    settings = Settings(mps_user=options.mps_user)
    for manifest in given.pods:
        spec = manifest.obj["spec"]
        if spec.get("nodeName") or (manifest.obj.get("status") or {}).get("phase"):
            yield pod_of(manifest, given.ranks)
            continue
        answer = admit(manifest.obj, settings)
        verdict = answer.verdict
        key = manifest.key
        warnings += [Complaint(key, "Warning", text) for text in verdict.warnings]
        if verdict.allowed:
            yield pod_of(replace(manifest, obj=dict(answer.pod)), given.ranks)
        else:
            rejected.append(Complaint(key, str(verdict.reason), verdict.message))


def _unplaced(refusal: Refusal, label: Label) -> Complaint:
    text = refusal_text(refusal, "=".join(label))
    return Complaint(refusal.pod.key, refusal.reason, text)


def _waits_for_others(pod: Pod) -> bool:
    others = any(gate != GATE for gate in pod.gates)
    return bool(pod.claims) and not pod.node and not pod.finished and others


def _gated(pod: Pod) -> Complaint:
    others = ", ".join(gate for gate in pod.gates if gate != GATE)
    return Complaint(pod.key, "Gated", f"waits for other scheduling gates: {others}")
