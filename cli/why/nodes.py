"""Why a node's GPUs are not used, or what uses them. Pure.

Told in the order in which a node comes to hold slices: the label, the kubelet, the NodeLayout, the
agent, the GPUs, the plan, and at last whether anything asks for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Final

from cli.drawing.folding import ranges
from cli.terminal import natural
from cli.why import advice
from cli.why.answer import Answer, Remedy, State, Told
from cli.why.pods import Insight
from cli.why.remedies import has_gpus
from mpslice.nodelayout import ConditionType, NodeLayout, SliceState
from planner.handover import outlived
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.state.absence import is_passing, not_carried_out, shows_nothing
from planner.state.parse import parse_node

Json = Mapping[str, Any]

_MOST_PODS: Final = 50  # pods that are tried on the node
_MOST_HOLDERS: Final = 12
_AGENTS: Final = (
    "kubectl get pods --all-namespaces --selector=app.kubernetes.io/component=nodeagent "
    "--field-selector=spec.nodeName="
)
_PLANNERS: Final = (
    "kubectl get pods --all-namespaces --selector=app.kubernetes.io/component=planner"
)

_Finding = tuple[str, str, Remedy | None]
"""A reason, a sentence that goes on from the node's name, and what helps."""


def about_node(raw: Json, told: Sequence[Told], insight: Insight) -> Answer:
    """The answer about a Node object; `told` are its Events, the newest last."""
    observed = insight.observed
    node = parse_node(raw)
    layout = (observed.layouts or {}).get(node.name)
    findings = list(_findings(raw, node, layout, insight))
    about, lacking = f"Node {node.name}", observed.lacking
    known = {reason for reason, _, _ in findings}
    remedies = (
        *(remedy for _, _, remedy in findings if remedy is not None),
        *_gpu_remedies(layout, known),
    )
    if not findings:
        answer = _used(about, node, layout, insight)
        return replace(answer, told=tuple(told), remedies=remedies, lacking=lacking)
    reason, text, _ = findings[0]
    facts = (*(words for _, words, _ in findings[1:]), *_layout_facts(layout))
    return Answer(
        about,
        State.NOT_USED,
        reason,
        text,
        facts,
        tuple(told),
        remedies=remedies,
        lacking=lacking,
    )


def _findings(
    raw: Json, node: Node, layout: NodeLayout | None, insight: Insight
) -> Iterator[_Finding]:
    """Yields everything that stands in the way, in the order of the module's docstring."""
    observed, name = insight.observed, node.name
    key, value = observed.label
    if node.labels.get(key) != value:
        yield from _unlabelled(node, layout, observed.label)
        return
    if name in observed.unreadable:
        yield (
            "UnreadableLayout",
            f"its NodeLayout cannot be read: {observed.unreadable[name]}",
            None,
        )
    if not node.ready:
        yield "NotReady", f"the node is not ready: {_readiness(raw)}", None
    if node.unschedulable:
        yield (
            "Unschedulable",
            "it is cordoned",
            Remedy("uncordon", "open the node again", f"kubectl uncordon {name}"),
        )
    if observed.layouts is None:
        return
    if name not in observed.unreadable:
        yield from _of_layout(node, layout, insight)


def _unlabelled(
    node: Node, layout: NodeLayout | None, label: tuple[str, str]
) -> Iterator[_Finding]:
    written = "=".join(label)
    if layout is not None and layout.spec.release:
        released = layout.status.condition(ConditionType.RELEASED) if layout.status else None
        text = f"it is being handed back: {released.message}" if released else "it is handed back"
        yield "HandedBack", text, None
        return
    other = node.labels.get(label[0])
    has = f"it has {label[0]}={other}" if other is not None else f"it lacks the label {written}"
    shown = "" if has_gpus(node) else "; nothing shows that it has GPUs, either"
    command = f"kubectl label node {node.name} {written}{' --overwrite' if other else ''}"
    remedy = Remedy("label", "hand the node's GPUs over to mpslice", command)
    yield "NotLabelled", f"it is not handed over to mpslice: {has}{shown}", remedy


def _readiness(raw: Json) -> str:
    for condition in (raw.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready":
            return str(condition.get("message") or condition.get("reason") or "no reason is given")
    return "its kubelet has not reported"


def _of_layout(node: Node, layout: NodeLayout | None, insight: Insight) -> Iterator[_Finding]:
    if layout is None:
        remedy = Remedy("planner", "see whether the planner runs, which makes it", _PLANNERS)
        yield "NoLayout", "it has the label and no NodeLayout yet", remedy
        return
    if outlived(layout, node):
        yield "OldLayout", "its NodeLayout is that of an earlier node of the same name", None
        return
    agents = Remedy("agent", "see what the node's agent says", f"{_AGENTS}{node.name}")
    if layout.status is None or layout.status.condition(ConditionType.READY) is None:
        yield "NoAgent", "no agent has reported from it yet", agents
        return
    ready = layout.status.condition(ConditionType.READY)
    if ready is not None and not ready.status:
        helps = advice.NODES.get(ready.reason)
        said = f"{ready.reason}: {ready.message}" if ready.message else ready.reason
        remedy = Remedy("agent", helps) if helps else agents
        what = "is away" if is_passing(layout) else "does not serve it"
        yield ready.reason, f"its agent {what}: {said}", remedy
    elif shows_nothing(node, layout):
        yield "AgentAway", "the node's status shows none of its slices: its agent is away", agents
    yield from _gpus(layout)
    decision = insight.decision
    if decision is not None and node.name in decision.snapshot.set_aside:
        problem = decision.snapshot.set_aside[node.name]
        yield "NodeSetAside", f"the planner leaves it alone: {problem}", None
    applied = layout.status.condition(ConditionType.APPLIED)
    if layout.status.observed_generation < layout.generation or (applied and not applied.status):
        said = f"{applied.reason}: {applied.message}" if applied and not applied.status else ""
        text = said or not_carried_out(layout)
        yield "NotApplied", f"its newest layout is not applied: {text}", agents


def _gpus(layout: NodeLayout) -> Iterator[_Finding]:
    """Yields a finding where none of the GPUs is healthy: a node with a healthy one is used."""
    gpus = layout.status.gpus if layout.status is not None else ()
    if not gpus:
        yield "NoGpus", "its agent shows no GPU", None
    elif not any(gpu.healthy for gpu in gpus):
        reason = gpus[0].reason or "Unhealthy"
        helps = advice.NODES.get(reason)
        remedy = Remedy("gpu", helps) if helps else None
        yield reason, f"none of its GPUs is served: {_sick_text(layout)}", remedy


def _gpu_remedies(layout: NodeLayout | None, known: Set[str]) -> Iterator[Remedy]:
    """Returns what helps for each reason of an unhealthy GPU, except for the reasons in `known`."""
    for reason, indexes in _sick(layout).items():
        if reason in advice.NODES and reason not in known:
            yield Remedy("gpu", f"GPU {ranges(indexes)} {reason}: {advice.NODES[reason]}")


def _sick(layout: NodeLayout | None) -> dict[str, list[int]]:
    """The indexes of the unhealthy GPUs by reason."""
    gpus = layout.status.gpus if layout is not None and layout.status is not None else ()
    found: dict[str, list[int]] = {}
    for gpu in gpus:
        if not gpu.healthy:
            found.setdefault(gpu.reason or "Unhealthy", []).append(gpu.index)
    return found


def _sick_text(layout: NodeLayout) -> str:
    """`GPU 1-3 MigMode, GPU 0 Lost`."""
    return ", ".join(f"GPU {ranges(found)} {reason}" for reason, found in _sick(layout).items())


def _layout_facts(layout: NodeLayout | None) -> Iterator[str]:
    """Who holds slices, and which GPUs are not served."""
    gpus = layout.status.gpus if layout is not None and layout.status is not None else ()
    if layout is not None and any(gpu.healthy for gpu in gpus) and _sick(layout):
        yield f"not served: {_sick_text(layout)}"
    held = [
        f"GPU {gpu.index}: {each.id.size}gb is held by {each.pod or 'a pod not known yet'}"
        for gpu in gpus
        for each in sorted(gpu.slices, key=lambda s: (s.id.size, natural(s.pod or "")))
        if each.state is SliceState.USED
    ]
    yield from held[:_MOST_HOLDERS]
    if len(held) > _MOST_HOLDERS:
        yield f"{len(held) - _MOST_HOLDERS} more slices are held"


def _used(about: str, node: Node, layout: NodeLayout | None, insight: Insight) -> Answer:
    """Answers for a node that is served: what holds its slices, or why nothing does."""
    if insight.observed.layouts is None:
        text = "the node has the label and is ready; more is not seen without its NodeLayout"
        return Answer(about, State.FINE, "Labelled", text)
    gpus = layout.status.gpus if layout is not None and layout.status is not None else ()
    facts = tuple(_layout_facts(layout))
    capacity = sum(gpu.capacity_gb for gpu in gpus if gpu.healthy)
    used = sum(gpu.used_gb for gpu in gpus)
    count = sum(s.state is SliceState.USED for gpu in gpus for s in gpu.slices)
    if count:
        slices = "1 slice holds" if count == 1 else f"{count} slices hold"
        text = f"{slices} {used}gb of its {capacity}gb"
        return Answer(about, State.FINE, "Used", text, facts)
    text = f"it is served with {capacity}gb, and {_nobody_asks(node, insight)}"
    return Answer(about, State.NOT_USED, "NothingAsks", text, facts)


def _nobody_asks(node: Node, insight: Insight) -> str:
    """Says why no waiting pod is placed here."""
    decision, trials = insight.decision, insight.trials
    if decision is None or trials is None:
        return "nothing holds a slice there"
    coming = [p.pod.key for p in decision.plan.placements if p.node == node.name]
    if coming:
        return f"a slice is being made there for {', '.join(coming[:_MOST_HOLDERS])}"
    waiting: list[Pod] = [refusal.pod for refusal in decision.refused]
    if not waiting:
        return "no pod waits for a slice"
    verdicts = (trials.verdict(pod, trials.states[node.name]) for pod in waiting[:_MOST_PODS])
    counts = Counter(str(v.cause) if v.cause else "fits, and waits for its group" for v in verdicts)
    causes = ", ".join(f"{count} {cause}" for cause, count in counts.most_common())
    if len(waiting) == 1:
        return f"the pod that waits does not fit there: {causes}"
    return f"none of the {len(waiting)} pods that wait fits there: {causes}"
