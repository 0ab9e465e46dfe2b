"""The state of a cluster as records that can be drawn or printed as JSON. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cli.nodestate import states
from cli.observe import Observed
from cli.rights import Denied
from cli.terminal import natural
from mpslice.nodelayout import GpuStatus, SliceState
from mpslice.slices import SliceSize, size_label
from planner.model.nodes import Node
from planner.model.plan import Refusal
from planner.model.pods import GATE, Pod
from planner.view import Decision
from planner.words.condition import queued
from planner.words.explain import placement_text, refusal_text, reservation_text, sizes_text

_POOLS: Final = (
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "karpenter.sh/nodepool",
    "node.kubernetes.io/instance-type",
)
"""The labels by which clouds and autoscalers name the pool of a node."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice on a GPU. `pod` is its holder, "" while it is free or its holder is not known."""

    size: SliceSize
    used: bool
    pod: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU; `reason` says why it is not served, "" while it is."""

    index: int
    product: str
    capacity: int
    reason: str
    slices: tuple[Slice, ...]

    @property
    def used(self) -> int:
        return sum(each.size for each in self.slices if each.used)

    @property
    def free(self) -> int:
        return sum(each.size for each in self.slices if not each.used)


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node with its GPUs; `state` says what is wrong with it, "" for nothing."""

    name: str
    pool: str
    state: str
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class Total:
    """What some GPUs come to, in gb; those that are not served do not count for capacity."""

    name: str
    nodes: int = 0
    gpus: int = 0
    capacity: int = 0
    used: int = 0
    free: int = 0

    @property
    def uncarved(self) -> int:
        return max(0, self.capacity - self.used - self.free)


@dataclass(frozen=True, slots=True)
class Share:
    """What the pods of a namespace hold and wait for, in gb."""

    namespace: str
    pods: int = 0
    held: int = 0
    waiting: int = 0
    waiting_gb: int = 0


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod with slices and where they are; `where` is a node where the GPU is not seen."""

    pod: str
    sizes: str
    where: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pod without a node; `coming` while its slices are made or there. `place` is its place in
    the queue, 0 where that is not known. `since` in RFC 3339.
    """

    pod: str
    sizes: str
    reason: str
    text: str
    coming: bool = False
    place: int = 0
    since: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is shown. `namespace` is where pods are shown from, "" for all.

    `nodes` is None where neither nodes nor layouts may be read.
    """

    label: str
    namespace: str
    nodes: tuple[NodeRow, ...] | None
    total: Total
    pools: tuple[Total, ...]
    shares: tuple[Share, ...]
    holdings: tuple[Holding, ...]
    waiting: tuple[Waiting, ...]
    judged: bool
    lacking: tuple[Denied, ...]


def picture(observed: Observed, decision: Decision | None, namespace: str = "") -> Picture:
    """The picture, of the pods of one namespace or of all; `decision` as `judged` has it."""
    nodes = None if observed.layouts is None else tuple(_nodes(observed, decision))
    pods = [
        pod
        for pod in observed.pods or ()
        if pod.claims and not pod.finished and namespace in ("", pod.namespace)
    ]
    waiting = [pod for pod in pods if not pod.node and not pod.terminating]
    rows = tuple(_waiting(waiting, observed, decision))
    return Picture(
        label="=".join(observed.label),
        namespace=namespace or observed.namespace,
        nodes=nodes,
        total=_total("all", nodes or ()),
        pools=tuple(_pools(nodes or ())),
        shares=tuple(_shares(pods)),
        holdings=tuple(_holdings([pod for pod in pods if pod.node], nodes or (), namespace)),
        waiting=rows,
        judged=decision is not None,
        lacking=observed.lacking,
    )


def _nodes(observed: Observed, decision: Decision | None) -> Iterator[NodeRow]:
    layouts = observed.layouts or {}
    known = {node.name: node for node in observed.nodes or ()}
    said = states(observed, decision)
    for name in sorted(said, key=natural):
        layout = layouts.get(name)
        gpus = layout.status.gpus if layout is not None and layout.status is not None else ()
        yield NodeRow(name, _pool(known.get(name), gpus), said[name], tuple(map(_gpu, gpus)))


def _gpu(gpu: GpuStatus) -> Gpu:
    """Used slices first, then by size and holder; which of equal slices a pod got is by chance."""
    slices = [
        Slice(s.id.size, s.state is SliceState.USED, s.pod or "", s.container or "")
        for s in gpu.slices
    ]
    slices.sort(key=lambda each: (not each.used, each.size, natural(each.pod), each.container))
    reason = "" if gpu.healthy else gpu.reason or "Unhealthy"
    return Gpu(gpu.index, gpu.product, gpu.capacity_gb, reason, tuple(slices))


def _pool(node: Node | None, gpus: Iterable[GpuStatus]) -> str:
    """The pool that a label names, else the GPUs' product."""
    labels: Mapping[str, str] = node.labels if node is not None else {}
    named = next((labels[key] for key in _POOLS if labels.get(key)), "")
    return named or next((gpu.product for gpu in gpus if gpu.product), "") or "no GPU seen"


def _total(name: str, nodes: Iterable[NodeRow]) -> Total:
    nodes = list(nodes)
    gpus = [gpu for node in nodes for gpu in node.gpus]
    return Total(
        name,
        len(nodes),
        len(gpus),
        sum(gpu.capacity for gpu in gpus if not gpu.reason),
        sum(gpu.used for gpu in gpus),
        sum(gpu.free for gpu in gpus),
    )


def _pools(nodes: Iterable[NodeRow]) -> Iterator[Total]:
    pools: dict[str, list[NodeRow]] = {}
    for node in nodes:
        pools.setdefault(node.pool, []).append(node)
    for pool in sorted(pools, key=natural):
        yield _total(pool, pools[pool])


def _shares(pods: Iterable[Pod]) -> Iterator[Share]:
    """The namespaces, the one that holds most first."""
    shares: dict[str, Share] = {}
    for pod in pods:
        share = shares.get(pod.namespace, Share(pod.namespace))
        gb = sum(pod.seats)
        if pod.node:
            share = replace(share, pods=share.pods + 1, held=share.held + gb)
        elif not pod.terminating:
            share = replace(share, waiting=share.waiting + 1, waiting_gb=share.waiting_gb + gb)
        shares[pod.namespace] = share
    yield from sorted(shares.values(), key=lambda s: (-s.held, -s.waiting_gb, s.namespace))


def _holdings(pods: Iterable[Pod], nodes: Iterable[NodeRow], namespace: str) -> Iterator[Holding]:
    """Every pod that holds slices, as the agents and the pods themselves say."""
    where: dict[str, dict[str, None]] = {}
    sizes: dict[str, Counter[SliceSize]] = {}
    for node in nodes:
        for gpu in node.gpus:
            for each in gpu.slices:
                if each.used:
                    pod = each.pod or "a pod not known yet"
                    where.setdefault(pod, {})[f"{node.name} GPU {gpu.index}"] = None
                    sizes.setdefault(pod, Counter())[each.size] += 1
    seen = {pod.key: pod for pod in pods}
    for key in sorted(where.keys() | seen.keys(), key=natural):
        if namespace and key.partition("/")[0] != namespace:
            continue
        if key in where:
            yield Holding(key, _sizes(sizes[key]), ", ".join(where[key]))
        else:
            yield Holding(key, sizes_text(seen[key]), seen[key].node)


def _sizes(counts: Counter[SliceSize]) -> str:
    return " + ".join(
        size_label(size) if count == 1 else f"{count} x {size_label(size)}"
        for size, count in sorted(counts.items())
    )


def _waiting(
    pods: Iterable[Pod], observed: Observed, decision: Decision | None
) -> Iterator[Waiting]:
    """Those on their way first, then the queue, then the pods that are not in it."""
    pods = list(pods)
    said = _verdicts(decision, "=".join(observed.label)) if decision is not None else {}
    rows = [said.get(pod.uid) or _as_told(pod) for pod in pods]
    rows = [replace(row, since=pod.waits_since) for row, pod in zip(rows, pods, strict=True)]
    last = len(rows) + 1
    rows.sort(key=lambda row: (not row.coming, row.place or last, row.since, natural(row.pod)))
    yield from rows


def _verdicts(decision: Decision, label: str) -> dict[str, Waiting]:
    states = {state.node.name: state for state in decision.snapshot.nodes}
    found: dict[str, Waiting] = {}
    for placements, reason, words in (
        (decision.standing, "SliceReady", "ready"),
        (decision.carving, "Carving", "its slices are being made"),
    ):
        for placement in placements:
            pod = placement.pod
            text = f"{placement_text(placement, states)}: {words}"
            found[pod.uid] = Waiting(pod.key, sizes_text(pod), reason, text, coming=True)
    kept = {r.pod.uid: r for r in decision.plan.reservations if r.node in states}
    places = {r.pod.uid: place for place, r in enumerate(queued(decision.refused), start=1)}
    for refusal in decision.refused:
        pod = refusal.pod
        text = _without_sizes(refusal, label)
        if pod.uid in kept:
            text += f"; {reservation_text(kept[pod.uid], states)}"
        place = places.get(pod.uid, 0)
        found[pod.uid] = Waiting(pod.key, sizes_text(pod), refusal.reason, text, place=place)
    return found


def _without_sizes(refusal: Refusal, label: str) -> str:
    """The reason; the sizes have a column of their own."""
    return refusal_text(refusal, label).removeprefix(f"{sizes_text(refusal.pod)}: ")


def _as_told(pod: Pod) -> Waiting:
    """What the planner has written on the pod."""
    others = [gate for gate in pod.gates if gate != GATE]
    if others:
        gate = "gate" if len(others) == 1 else "gates"
        text = f"waits for the scheduling {gate} {', '.join(others)}"
        return Waiting(pod.key, sizes_text(pod), "Gated", text)
    said = pod.available
    if said is None:
        text = pod.unschedulable or "the planner has written nothing about it yet"
        return Waiting(pod.key, sizes_text(pod), "Pending", text)
    text = said.message.removeprefix(f"{sizes_text(pod)}: ")
    coming = said.status or said.reason == "Carving"
    return Waiting(pod.key, sizes_text(pod), said.reason, text, coming=coming)
