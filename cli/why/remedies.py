"""Finds what would let a waiting pod in; each remedy is tried on the planner's own plan. Pure.

Remedies that cost others least come first: changes of the pod itself, then of nodes, then the end
of other pods.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from cli.why.answer import Remedy
from cli.why.trial import NodeVerdict, Trials, gpus_held, without
from mpslice.gpus import MIB, GpuUuid, capacity_gb
from mpslice.nodelayout import NodeLayout
from mpslice.slices import SliceSize, resource_name, size_label
from planner.feasibility.nodes import untolerated
from planner.model.constraints import Constraints, Taint, Toleration
from planner.model.nodes import Node, NodeState
from planner.model.plan import Cause
from planner.model.pods import Pod, SliceClaim

_MOST: Final = 3  # remedies of one kind
_MOST_TRIALS: Final = 400  # of the ends of pods: a third of a millisecond each
_MOST_ENDS: Final = 4  # pods that have to end together
_SYSTEM: Final = re.compile(r"node\.kubernetes\.io/|node\.cloudprovider\.kubernetes\.io/")
_OF_MACHINES: Final = re.compile(
    r"kubernetes\.io/(hostname|arch|os)|(topology|node)\.kubernetes\.io/|nvidia\.com/gpu\."
)
"""Labels that describe a node: to change them does not change the machine."""

_COMES_FREE: Final = frozenset(
    {
        Cause.GPU_MEMORY,
        Cause.GPU_SLOTS,
        Cause.CPU,
        Cause.MEMORY,
        Cause.EPHEMERAL_STORAGE,
        Cause.PODS,
        Cause.EXTENDED_RESOURCE,
        Cause.HOST_PORT,
    }
)


def find_remedies(
    pod: Pod,
    trials: Trials,
    verdicts: Sequence[NodeVerdict],
    layouts: Mapping[str, NodeLayout],
    nodes: Iterable[Node],
    label: tuple[str, str],
) -> tuple[Remedy, ...]:
    """What would help a pod that fits on none of the nodes; `nodes` are all there are."""
    if any(verdict.cause in (None, Cause.RESERVED) for verdict in verdicts):
        return ()  # nothing has to change for the pod: it waits for its group or its turn
    by_cause: dict[Cause, list[str]] = {}
    for verdict in verdicts:
        if verdict.cause is not None:
            by_cause.setdefault(verdict.cause, []).append(verdict.node)
    states = trials.states
    found: list[Remedy] = []
    found += _smaller(pod, trials)
    found += _fewer_requests(pod, trials, by_cause)
    found += _tolerations(pod, trials, [states[n] for n in by_cause.get(Cause.TAINT, ())])
    found += _labels(pod, trials, [states[n] for n in by_cause.get(Cause.NODE_AFFINITY, ())])
    found += _uncordoned(pod, trials, [states[n] for n in by_cause.get(Cause.UNSCHEDULABLE, ())])
    free = [name for cause in _COMES_FREE for name in by_cause.get(cause, ())]
    found += ends(pod, trials, sorted(free), layouts)
    found += handed_over(pod, nodes, label)
    return tuple(found)


def _smaller(pod: Pod, trials: Trials) -> Iterator[Remedy]:
    """The largest slice that would have a place now, for a pod of one slice."""
    if len(pod.seats) != 1:
        return
    low, high = 0, int(pod.seats[0]) - 1
    where = ""
    while low < high:
        middle = (low + high + 1) // 2
        placement = trials.place(_sized(pod, SliceSize(middle)))
        if placement is not None:
            low, where = middle, placement.node
        else:
            high = middle - 1
    if where:
        text = (
            f"a slice of {low}gb instead of {size_label(pod.seats[0])} has a place now on {where}"
        )
        yield Remedy("size", text, f"{resource_name(SliceSize(low))}: 1")


def _sized(pod: Pod, size: SliceSize) -> Pod:
    return replace(pod, claims=tuple(SliceClaim(c.container, size, c.seat) for c in pod.claims))


def _fewer_requests(
    pod: Pod, trials: Trials, by_cause: Mapping[Cause, Sequence[str]]
) -> Iterator[Remedy]:
    """The node with the most CPU, or memory, that would do if the pod asked for no more."""
    states = [trials.states[name] for name in by_cause.get(Cause.CPU, ())]
    states.sort(key=lambda state: (-state.idle.cpu_milli, state.node.name))
    for state in _fitting(trials, states, lambda s: _asking(pod, cpu=max(0, s.idle.cpu_milli))):
        cpu = f"{max(0, state.idle.cpu_milli) / 1000:g}"
        wanted = f"{pod.requests.cpu_milli / 1000:g}"
        text = (
            f"a request of at most {cpu} CPU instead of {wanted} has a place on {state.node.name}"
        )
        yield Remedy("requests", text, f'cpu: "{cpu}"')
    states = [trials.states[name] for name in by_cause.get(Cause.MEMORY, ())]
    states.sort(key=lambda state: (-state.idle.memory, state.node.name))
    for state in _fitting(trials, states, lambda s: _asking(pod, memory=max(0, s.idle.memory))):
        memory = max(0, state.idle.memory) // MIB
        wanted = f"{-(-pod.requests.memory // MIB)}Mi"
        text = (
            f"a request of at most {memory}Mi of memory instead of {wanted} has a place on "
            f"{state.node.name}"
        )
        yield Remedy("requests", text, f"memory: {memory}Mi")


def _fitting(
    trials: Trials, states: Iterable[NodeState], variant: Callable[[NodeState], Pod]
) -> Iterator[NodeState]:
    return islice((state for state in states if trials.fits(variant(state), state)), 1)


def _asking(pod: Pod, *, cpu: int | None = None, memory: int | None = None) -> Pod:
    wants = pod.requests
    if cpu is not None:
        wants = replace(wants, cpu_milli=min(cpu, wants.cpu_milli))
    if memory is not None:
        wants = replace(wants, memory=min(memory, wants.memory))
    return replace(pod, requests=wants)


def _tolerations(pod: Pod, trials: Trials, states: Iterable[NodeState]) -> Iterator[Remedy]:
    by_taints: dict[tuple[Taint, ...], list[str]] = {}
    for state in states:
        taints = tuple(_in_the_way(pod.constraints, state.node))
        tolerant = replace(
            pod.constraints,
            tolerations=(*pod.constraints.tolerations, *map(_toleration, taints)),
        )
        if taints and trials.fits(replace(pod, constraints=tolerant), state):
            by_taints.setdefault(taints, []).append(state.node.name)
    for taints, names in islice(sorted(by_taints.items(), key=lambda i: len(i[0])), _MOST):
        written = ", ".join(_written(taint) for taint in taints)
        text = f"the toleration of {_taint_text(taints)} lets the pod in on {_names(names)}"
        yield Remedy("toleration", text, f"tolerations: [{written}]")


def _in_the_way(constraints: Constraints, node: Node) -> Iterator[Taint]:
    """Yields the taints that keep the pod off; none where one marks a node that is unwell."""
    left = node
    found: list[Taint] = []
    while (taint := untolerated(constraints, left)) is not None:
        found.append(taint)
        left = replace(left, taints=tuple(each for each in left.taints if each != taint))
    if not any(_SYSTEM.match(taint.key) for taint in found):
        yield from found


def _toleration(taint: Taint) -> Toleration:
    return Toleration(taint.key, "Equal", taint.value, taint.effect)


def _written(taint: Taint) -> str:
    value = f", value: {taint.value}" if taint.value else ""
    return f"{{key: {taint.key}, operator: Equal{value}, effect: {taint.effect}}}"


def _taint_text(taints: Iterable[Taint]) -> str:
    return ", ".join(f"{t.key}{'=' if t.value else ''}{t.value}:{t.effect}" for t in taints)


def _labels(pod: Pod, trials: Trials, states: Iterable[NodeState]) -> Iterator[Remedy]:
    """Nodes that only the pod's nodeSelector or its node affinity excludes."""
    by_labels: dict[tuple[tuple[str, str], ...], list[str]] = {}
    anywhere = replace(pod.constraints, node_selector=(), affinity=None)
    for state in states:
        if not trials.fits(replace(pod, constraints=anywhere), state):
            continue
        labels = state.node.labels
        wanted = tuple(p for p in pod.constraints.node_selector if labels.get(p[0]) != p[1])
        selected = replace(pod.constraints, node_selector=())
        if not trials.fits(replace(pod, constraints=selected), state):
            wanted = ()
        by_labels.setdefault(wanted, []).append(state.node.name)
    for wanted, names in islice(sorted(by_labels.items(), key=lambda i: len(i[0])), _MOST):
        which = f"{_names(names)}, which {'fits' if len(names) == 1 else 'fit'}"
        if not wanted:
            yield Remedy("label", f"the pod's node affinity excludes {which}")
            continue
        keys = [key for key, _ in wanted]
        text = f"the nodeSelector excludes {which}: leave out {', '.join(keys)}"
        if any(_OF_MACHINES.match(key) for key in keys):
            yield Remedy("label", text)
            continue
        pairs = " ".join(shlex.quote(f"{key}={value}") for key, value in wanted)
        command = f"kubectl label node {names[0]} {pairs}"
        yield Remedy("label", f"{text}, or have the node labelled", command)


def _uncordoned(pod: Pod, trials: Trials, states: Iterable[NodeState]) -> Iterator[Remedy]:
    for state in states:
        node = replace(state.node, unschedulable=False)
        node = replace(node, taints=tuple(t for t in node.taints if not _SYSTEM.match(t.key)))
        if trials.fits(pod, replace(state, node=node)):
            text = f"{state.node.name} is cordoned; the pod fits there once it is not"
            yield Remedy("uncordon", text, f"kubectl uncordon {state.node.name}")
            return


def ends(
    pod: Pod, trials: Trials, names: Iterable[str], layouts: Mapping[str, NodeLayout]
) -> list[Remedy]:
    """Finds pods whose end makes room. The lowest priority comes first, then the fewest pods.

    Each node has the fewest pods that are enough, at most `_MOST_ENDS`.
    """
    found: list[tuple[tuple[int, int, str], Remedy]] = []
    left = _MOST_TRIALS
    for name in names:
        state, held = trials.states[name], gpus_held(layouts.get(name))
        others = [p for p in trials.bound(name) if p.uid != pod.uid and not p.finished]
        # The lowest priority first, then the youngest.
        others.sort(key=lambda p: (p.priority, [-ord(c) for c in p.created], p.key))
        alone = []
        for other in others[:left]:
            left -= 1
            if trials.fits(pod, without(state, [other], held)):
                alone.append(other)
        found += (_end([other], name, held, layouts.get(name)) for other in alone[:_MOST])
        if not alone and left > 0:
            together = _together(pod, trials, state, others, held)
            if together:
                found.append(_end(together, name, held, layouts.get(name)))
        if left <= 0:
            break
    found.sort(key=lambda item: item[0])
    return [remedy for _, remedy in found[:_MOST]]


def _together(
    pod: Pod,
    trials: Trials,
    state: NodeState,
    others: Sequence[Pod],
    held: Mapping[str, list[GpuUuid]],
) -> list[Pod]:
    """Finds pods of one GPU, or else of the node, whose end makes enough room; [] without any."""
    groups: dict[GpuUuid, list[Pod]] = {}
    for other in others:
        for gpu in dict.fromkeys(held.get(other.key, ())):
            groups.setdefault(gpu, []).append(other)
    best: list[Pod] = []
    for candidates in (*groups.values(), list(others)):
        for count in range(2, min(len(candidates), _MOST_ENDS) + 1):
            largest = sorted(candidates, key=lambda p: (p.priority, -sum(p.seats)))[:count]
            if best and len(best) <= count:
                break
            if trials.fits(pod, without(state, largest, held)):
                best = largest
                break
    return best


def _end(
    pods: Sequence[Pod], node: str, held: Mapping[str, list[GpuUuid]], layout: NodeLayout | None
) -> tuple[tuple[int, int, str], Remedy]:
    gpus = layout.status.gpus if layout is not None and layout.status is not None else ()
    index = {gpu.uuid: gpu.index for gpu in gpus}
    told = []
    for pod in pods:
        where = sorted({index[uuid] for uuid in held.get(pod.key, ()) if uuid in index})
        sizes = " + ".join(size_label(size) for size in sorted(pod.seats))
        at = f" GPU {', '.join(map(str, where))}" if where else ""
        what = f"{sizes} on {node}{at}" if sizes else f"on {node}"
        told.append(f"{pod.key} ({what}, priority {pod.priority})")
    rank = max(pod.priority for pod in pods), len(pods), pods[0].key
    return rank, Remedy("end", f"the end of {' and '.join(told)}")


def handed_over(pod: Pod, nodes: Iterable[Node], label: tuple[str, str]) -> Iterator[Remedy]:
    """Nodes with GPUs that are not handed over to mpslice, as far as their labels say."""
    fitting = []
    for node in nodes:
        if node.labels.get(label[0]) == label[1] or not has_gpus(node):
            continue
        memory = node.labels.get("nvidia.com/gpu.memory", "")
        known = capacity_gb(int(memory)) if memory.isascii() and memory.isdigit() else None
        if known is None or not pod.seats or known >= max(pod.seats):
            fitting.append(node.name)
    if fitting:
        have = "has" if len(fitting) == 1 else "have"
        text = f"{_names(sorted(fitting))} {have} GPUs that are not handed over to mpslice"
        yield Remedy("node", text, f"kubectl label node {min(fitting)} {'='.join(label)}")


def has_gpus(node: Node) -> bool:
    """Whether another device plugin, or feature discovery, shows GPUs on the node."""
    resources = dict(node.allocatable.extended)
    whole = any(resources.get(name, 0) > 0 for name in ("nvidia.com/gpu", "nvidia.com/gpu.shared"))
    return (
        whole
        or node.labels.get("nvidia.com/gpu.present") == "true"
        or ("nvidia.com/gpu.count" in node.labels)
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST])
    return shown if len(names) <= _MOST else f"{shown} and {len(names) - _MOST} more"
