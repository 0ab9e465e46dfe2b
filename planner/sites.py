"""Which nodes and layouts a decision plans on, and which nodes are handed over and back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mpslice.nodelayout import NodeLayout
from planner.handover import hand_back, hand_over, outlived
from planner.model.nodes import Node
from planner.progress.course import Course
from planner.state.absence import as_if_there, not_carried_out
from planner.view import View
from planner.writes.actions import Action


@dataclass(frozen=True, slots=True)
class Sites:
    """The labelled nodes, and layouts by node name.

    `here` has the layouts of nodes whose agents are there. `awaited` has those of nodes that pods
    wait for until their agents are back, as the layouts will be then.
    """

    labelled: tuple[Node, ...]
    here: Mapping[str, NodeLayout]
    awaited: Mapping[str, NodeLayout]


def find_sites(view: View) -> Sites:
    """The sites of a view, without layouts that belong to an earlier node of the same name."""
    key, value = view.label
    labelled = tuple(node for node in view.nodes if node.labels.get(key) == value)
    layouts = serving(view.layouts.values())
    for node in labelled:
        if node.name in layouts and outlived(layouts[node.name], node):
            del layouts[node.name]
    here = {name: layout for name, layout in layouts.items() if name not in view.away}
    awaited = {
        name: as_if_there(layouts[name])
        for name, absence in view.away.items()
        if absence.awaited and name in layouts
    }
    return Sites(labelled, here, awaited)


def serving(layouts: Iterable[NodeLayout]) -> dict[str, NodeLayout]:
    """By name, the layouts that may be planned on: not those that are being handed back."""
    return {layout.name: layout for layout in layouts if not layout.spec.release}


def overdue(view: View, course: Course) -> dict[str, str]:
    """The nodes that let the deadline of a carve pass, with a clause for people."""
    return {
        name: not_carried_out(view.layouts[name])
        for name in sorted(course.overdue)
        if name in view.layouts and name not in view.away
    }


def node_actions(view: View) -> Iterator[Action]:
    """Nodes handed over and back; nothing where the node or its layout cannot be read."""
    key, value = view.label
    readable = [n for n in view.nodes if n.name not in view.unreadable and not n.problem]
    labelled = [node for node in readable if node.labels.get(key) == value]
    others = [node for node in readable if node.labels.get(key) != value]
    yield from hand_over(labelled, view.layouts)
    yield from hand_back(others, view.layouts, view.pods)
