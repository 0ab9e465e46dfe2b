"""Makes an offline plan: gathers the input, asks admission and the planner, collects the answers.

It decides nothing: the webhook's and the planner's own functions do.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cli.plan.cluster import Priorities, check_pod, pod_of, priorities
from cli.plan.fleet import Fleet, fleet_of
from cli.plan.hardware import UNKNOWN
from cli.plan.near_misses import near_misses
from cli.plan.options import Options
from cli.plan.outcome import ASKS_FOR_NONE, Complaint, Outcome
from cli.plan.workloads import Candidate, expand, owners, suspended, template_path
from cli.progress import Progress
from cli.reading.inventory import Inventory, Notice, slices_in, take_stock
from cli.reading.manifests import Manifest, Read
from cli.reading.shapes import GROUPS, WORKLOADS
from mpslice.groups import GROUP_LABEL
from planner.model.plan import Cause, Refusal
from planner.model.pods import GATE, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan, solver_is_installed
from planner.state.parse import MIN_MEMBER_ANNOTATION, Labels, parse_namespace
from planner.state.podgroups import minimum_of
from planner.state.snapshot import build_snapshot
from planner.words.explain import refusal_text, sizes_text
from webhook.offline import Admission, admit
from webhook.verdicts import ALLOWED

_IGNORE: Final = ("mpslice.io/admission", "ignore")
_NEVER: Final = frozenset({"kube-system"})


@dataclass(slots=True)
class _Judged:
    """The pods as the API server would store them, and what is told of the others."""

    pods: list[Pod] = field(default_factory=list)
    rejected: list[Complaint] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)
    unplanned: list[Notice] = field(default_factory=list)
    whole: list[Notice] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)


def plan_offline(read: Read, options: Options, progress: Progress) -> Outcome:
    """Decides what the cluster would do with the objects; raises UnusableInput."""
    started = time.perf_counter()
    progress.begin(f"reading {len(read.manifests)} objects")
    stock = take_stock(read, options.namespace)
    stored, new = _split(stock)
    ranks = priorities(stock.of("PriorityClass"))
    existing = [pod_of(manifest, ranks) for manifest in stored]
    fleet = fleet_of(stock, [pod for pod in existing if pod.node], options)
    candidates = [*new, *_made(stock, fleet)]
    judged = _Judged(pods=[pod for pod in existing if pod.key not in fleet.gone])
    progress.begin(f"asking admission about {len(candidates)} pods")
    namespaces = {m.obj["metadata"]["name"]: parse_namespace(m.obj) for m in stock.of("Namespace")}
    _Judge(fleet, options, ranks, namespaces).admit_all(candidates, judged)
    judged.owners |= owners(_workloads(stock), stored)
    _tell_of_stored(stored, fleet, judged)
    snapshot = _snapshot(stock, fleet, judged.pods, namespaces, options)
    waiting = [pod for pod in judged.pods if pod.is_pending]
    read_at = time.perf_counter()
    progress.begin(f"planning {len(waiting)} pods on {len(snapshot.nodes)} nodes")
    made = plan(snapshot, waiting, solver=options.solver and solver_is_installed())
    planned_at = time.perf_counter()
    return Outcome(
        rejected=tuple(judged.rejected),
        warnings=(
            *(Notice("the cluster", "Forbidden", text) for text in read.warnings),
            *(Notice("the chart", "NotFollowed", text) for text in options.remarks),
            *stock.warnings,
            *fleet.warnings,
            *_set_aside(snapshot),
            *_gone(fleet),
            *ranks.warnings(),
            *suspended(_workloads(stock)),
            *judged.warnings,
            *_of_groups(candidates, judged.pods),
        ),
        placed=made.placements,
        unplaced=(
            *_unplaced(made.refusals, fleet, options),
            *(_gated(pod) for pod in judged.pods if _waits_for_others(pod)),
        ),
        unplanned=_unplanned(stock, judged),
        nodes=fleet.reports(),
        candidates=tuple(fleet.candidates),
        owners=judged.owners,
        plan=made,
        snapshot=snapshot,
        skipped=dict(stock.skipped),
        asking=sum(1 for pod in judged.pods if pod.claims and not pod.finished),
        read_seconds=read_at - started,
        plan_seconds=planned_at - read_at,
    )


def _workloads(stock: Inventory) -> list[Manifest]:
    return [manifest for kind in sorted(WORKLOADS) for manifest in stock.of(kind)]


def _split(stock: Inventory) -> tuple[list[Manifest], list[Candidate]]:
    """The pods that exist, and those that a file brings."""
    stored: list[Manifest] = []
    new: list[Candidate] = []
    for pod in stock.of("Pod"):
        check_pod(pod)
        if pod.is_stored:
            stored.append(pod)
        else:
            new.append(Candidate(pod))
    return stored, new


def _of_groups(candidates: Iterable[Candidate], pods: Iterable[Pod]) -> Iterator[Notice]:
    """Warns of annotations that are meant as a group's minimum and are ignored."""
    read = {pod.key: pod for pod in pods}
    told: set[str] = set()
    for candidate in candidates:
        manifest = candidate.manifest
        annotations = manifest.metadata.get("annotations") or {}
        text, pod = annotations.get(MIN_MEMBER_ANNOTATION), read.get(manifest.key)
        about = f"Pods of {candidate.owner}" if candidate.owner else f"Pod {manifest.key}"
        if text is None or pod is None or about in told:
            continue
        told.add(about)
        said = f"annotation {MIN_MEMBER_ANNOTATION}"
        if pod.min_member is None:
            yield Notice(
                about,
                "MinMember",
                f"{said} is {text!r:.60} and is ignored; write a whole number above 0",
            )
        elif not pod.group:
            yield Notice(about, "MinMember", f"{said} is ignored without the label {GROUP_LABEL}")


def _made(stock: Inventory, fleet: Fleet) -> Iterator[Candidate]:
    """The pods that the workloads would make."""
    workloads = _workloads(stock)
    for workload in workloads:
        check_pod(workload, (*template_path(workload.kind), "spec"))
    return expand(workloads, stock.of("Pod"), fleet.nodes)


class _Judge:
    """Admission of the pods that do not exist yet, with the settings of the options."""

    def __init__(
        self,
        fleet: Fleet,
        options: Options,
        ranks: Priorities,
        namespaces: Mapping[str, Labels],
    ) -> None:
        self._settings = options.settings
        self._largest = fleet.largest_gb
        self._ranks = ranks
        self._left_alone = options.excluded_namespaces | _NEVER
        self._left_alone |= {n for n, labels in namespaces.items() if _IGNORE in labels.items()}
        self._offered = {name for node in fleet.nodes for name, _ in node.allocatable.extended}
        self._template = 0
        self._answer: Admission | None = None
        self._missed: list[Notice] = []

    def admit_all(self, candidates: Iterable[Candidate], judged: _Judged) -> None:
        for candidate in candidates:
            key = candidate.manifest.key
            if candidate.owner:
                judged.owners[key] = candidate.owner
            answer = self._ask(candidate)
            verdict = answer.verdict
            judged.warnings += [Notice(f"Pod {key}", "Warning", text) for text in verdict.warnings]
            if not verdict.allowed:
                judged.rejected.append(Complaint(key, str(verdict.reason), verdict.message))
                continue
            pod = pod_of(replace(candidate.manifest, obj=dict(answer.pod)), self._ranks)
            judged.pods.append(pod)
            if not pod.claims:
                self._tell_near_misses(candidate, judged)

    def _ask(self, candidate: Candidate) -> Admission:
        """Returns admission's answer; the previous one where only the pods' names differ."""
        obj = candidate.manifest.obj
        if candidate.template and candidate.template == self._template and self._answer:
            return replace(self._answer, pod={**self._answer.pod, "metadata": obj["metadata"]})
        namespace = obj["metadata"].get("namespace") or "default"
        if namespace in self._left_alone:
            self._answer = Admission(obj, ALLOWED)
        else:
            self._answer = admit(obj, self._settings, largest=self._largest)
        self._template = candidate.template
        return self._answer

    def _tell_near_misses(self, candidate: Candidate, judged: _Judged) -> None:
        manifest = candidate.manifest
        for miss in near_misses(manifest.obj["spec"], self._offered):
            notice = Notice(f"Pod {manifest.key}", ASKS_FOR_NONE, miss.message)
            (judged.whole if miss.whole else judged.unplanned).append(notice)


def _tell_of_stored(stored: Iterable[Manifest], fleet: Fleet, judged: _Judged) -> None:
    """Tells of pods that wait in the cluster for a resource that no node will ever offer."""
    offered = {name for node in fleet.nodes for name, _ in node.allocatable.extended}
    waiting = {pod.key for pod in judged.pods if not (pod.node or pod.finished or pod.claims)}
    for manifest in stored:
        if manifest.key in waiting:
            for miss in near_misses(manifest.obj["spec"], offered):
                if not miss.whole:
                    notice = Notice(f"Pod {manifest.key}", ASKS_FOR_NONE, miss.message)
                    judged.unplanned.append(notice)


def _snapshot(
    stock: Inventory,
    fleet: Fleet,
    pods: Iterable[Pod],
    namespaces: Mapping[str, Labels],
    options: Options,
) -> Snapshot:
    minimums = {m.key: least for m in stock.of("PodGroup") if (least := minimum_of(m.obj))}
    return build_snapshot(
        fleet.handed_over,
        fleet.layouts,
        pods,
        max_slices_per_gpu=options.max_slices_per_gpu,
        minimums=minimums,
        all_nodes=fleet.nodes,
        namespaces=namespaces,
    )


def _unplanned(stock: Inventory, judged: _Judged) -> tuple[Notice, ...]:
    """Tells of objects that seem to want slices and get none.

    Whole GPUs are told of only where nothing asks for a slice.
    """
    askers = [
        Notice(
            each.name,
            "NotPlanned",
            f"asks for {', '.join(slices_in(each.obj))}, but {_not_planned(each)}",
        )
        for each in stock.askers
    ]
    nothing_asks = not any(pod.claims for pod in judged.pods) and not judged.rejected
    return (*askers, *judged.unplanned, *(judged.whole if nothing_asks else ()))


def _not_planned(manifest: Manifest) -> str:
    """Why an object that asks for slices makes no pods here."""
    kind, group = manifest.kind, manifest.group
    meant = next((k for k in GROUPS if kind.lower() in (k.lower(), f"{k.lower()}s")), "")
    if meant and kind != meant:
        return f"Kubernetes has no kind {kind}; write {meant}"
    if meant and "." not in (group or ""):
        version = f"{GROUPS[meant]}/v1".lstrip("/")
        return f"{manifest.obj.get('apiVersion')} has no {kind}; write apiVersion: {version}"
    return "pods of this kind are not planned; give the pods that its controller makes"


def _set_aside(snapshot: Snapshot) -> Iterator[Notice]:
    for name, why in snapshot.set_aside.items():
        yield Notice(f"Node {name}", "SetAside", f"is set aside: {why}")


def _gone(fleet: Fleet) -> Iterator[Notice]:
    if fleet.gone:
        text = "holds GPUs through another device plugin and counts as gone (--assume-empty)"
        for key in sorted(fleet.gone):
            yield Notice(f"Pod {key}", "AssumedGone", text)


def _unplaced(refusals: Iterable[Refusal], fleet: Fleet, options: Options) -> Iterator[Complaint]:
    label = "=".join(options.label)
    reasons = _reasons(fleet)
    for refusal in refusals:
        told = refusal
        if reasons and any(cause is Cause.NOT_READY for cause, _ in refusal.causes):
            told = replace(refusal, details=(*refusal.details, (Cause.NOT_READY, reasons)))
        text = refusal_text(told, label)
        if refusal.own is Cause.NO_NODE and fleet.hardware:
            count = len(fleet.hardware)
            sizes = sizes_text(refusal.pod)
            text = f"{sizes}: 0 of {count} nodes: {count} set aside, see the warnings"
        yield Complaint(refusal.pod.key, refusal.reason, text)


def _reasons(fleet: Fleet) -> str:
    """Why nodes that are handed over have no GPU to plan on, which the planner calls NotReady."""
    words: dict[str, list[str]] = {}
    for report in fleet.reports():
        usable = [gpu for gpu in report.gpus if not gpu.reason]
        if report.reason and report.reason != UNKNOWN and not usable:
            words.setdefault(report.reason, []).append(report.name)
    return ", ".join(
        f"{reason} on {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for reason, names in words.items()
    )


def _waits_for_others(pod: Pod) -> bool:
    others = any(gate != GATE for gate in pod.gates)
    return bool(pod.claims) and not pod.node and not pod.finished and others


def _gated(pod: Pod) -> Complaint:
    others = ", ".join(gate for gate in pod.gates if gate != GATE)
    return Complaint(pod.key, "Gated", f"waits for other scheduling gates: {others}")
