"""What is wrong with a node, in the few words that fit beside its name. Pure."""

from cli.observe import Observed
from mpslice.nodelayout import Condition, ConditionType, NodeLayout
from planner.model.nodes import Node
from planner.state.absence import shows_nothing
from planner.view import Decision


def states(observed: Observed, decision: Decision | None) -> dict[str, str]:
    """By name, every node that is handed over or has a NodeLayout; "" where nothing is wrong."""
    layouts = observed.layouts or {}
    nodes = {node.name: node for node in observed.nodes or ()}
    labelled = {node.name for node in observed.labelled}
    found: dict[str, str] = {}
    for name in layouts.keys() | observed.unreadable.keys() | labelled:
        if name in observed.unreadable:
            problem = observed.unreadable[name].removeprefix(f"NodeLayout {name}: ")
            found[name] = f"its NodeLayout cannot be read: {problem}"
            continue
        found[name] = _state(nodes.get(name), layouts.get(name))
        if not found[name] and decision is not None:
            found[name] = decision.snapshot.set_aside.get(name) or decision.away.get(name) or ""
    return found


def _state(node: Node | None, layout: NodeLayout | None) -> str:
    said = [] if node is None or node.ready else ["NotReady"]
    if node is not None and node.unschedulable:
        said.append("cordoned")
    ready = layout.status.condition(ConditionType.READY) if layout and layout.status else None
    if layout is None:
        said.append("no NodeLayout yet")
    elif layout.spec.release:
        said.append("being handed back")
    elif ready is None:
        said.append("no agent has reported yet")
    elif not ready.status:
        said.append(_said(ready))
    elif node is not None and shows_nothing(node, layout):
        said.append("its agent is away")
    return ", ".join(said)


def _said(condition: Condition) -> str:
    return f"{condition.reason}: {condition.message}" if condition.message else condition.reason
