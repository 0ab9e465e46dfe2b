"""`kubectl mpslice status`: the GPUs of a cluster with their slices, and what waits and why.

The reasons are not read from Events: the planner's own function is asked again, on what the
cluster shows now, so that they are as fresh as the bars beside them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from cli.errors import UnusableInput
from mpslice.errors import MpsliceError
from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Json, Kube, list_all
from mpslice.kube.errors import Forbidden, NotFound
from mpslice.kube.reflector import Change, Reflector, key_of
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.decide import serving
from planner.gate.gates import hold_back
from planner.model import GATE, Node, Plan, Pod, Snapshot
from planner.packing import plan
from planner.state.parse import Labels, parse_namespace, parse_node, parse_pod
from planner.state.podgroups import POD_GROUPS, minimum_of
from planner.state.snapshot import build_snapshot

T = TypeVar("T")
Label = tuple[str, str]

_SETTLE = 0.2  # seconds in which changes are gathered before the picture is drawn again


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown. `gated` are slice pods that wait for other people's gates."""

    snapshot: Snapshot
    layouts: dict[str, NodeLayout]
    plan: Plan
    gated: tuple[Pod, ...]


async def look(kube: Kube, label: Label) -> Picture:
    """The cluster as it is now; raises a KubeError, or UnusableInput where mpslice is not."""
    try:
        layouts, nodes, pods, namespaces = await asyncio.gather(
            list_all(kube, NODE_LAYOUTS),
            list_all(kube, NODES),
            list_all(kube, PODS),
            list_all(kube, NAMESPACES),
        )
    except NotFound as error:
        raise UnusableInput(
            "the cluster knows no NodeLayouts; install mpslice's chart there first"
        ) from error
    return _picture(
        [node for node in map(_node, nodes) if node],
        {layout.name: layout for layout in map(_layout, layouts) if layout},
        [pod for pod in map(_pod, pods) if pod],
        {item["metadata"]["name"]: parse_namespace(item) for item in namespaces},
        await _minimums(kube),
        label,
    )


async def _minimums(kube: Kube) -> dict[str, int]:
    """The PodGroups' minimums; none where the kind is not installed or not to be read."""
    try:
        groups = await list_all(kube, POD_GROUPS)
    except (Forbidden, NotFound):
        return {}
    return {key_of(group): least for group in groups if (least := minimum_of(group)) is not None}


async def follow(kube: Kube, label: Label) -> AsyncIterator[Picture]:
    """A new picture whenever something changed, until the caller ends it."""
    await look(kube, label)  # says in one sentence what is wrong, where a reflector would retry
    changed = asyncio.Event()

    def on_change(_change: Change[T]) -> None:
        changed.set()

    nodes = Reflector(kube, NODES, _node, on_change)
    layouts = Reflector(kube, NODE_LAYOUTS, _layout, on_change)
    pods = Reflector(kube, PODS, _pod, on_change)
    namespaces = Reflector(kube, NAMESPACES, parse_namespace, on_change)
    followed = (nodes, layouts, pods, namespaces)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(r.run()) for r in followed]
        try:
            for reflector in followed:
                await reflector.synced.wait()
            while True:
                changed.clear()
                yield _picture(
                    list(nodes.objects.values()),
                    dict(layouts.objects),
                    list(pods.objects.values()),
                    dict(namespaces.objects),
                    await _minimums(kube),
                    label,
                )
                await changed.wait()
                await asyncio.sleep(_SETTLE)
        finally:
            for task in running:
                task.cancel()


def _picture(
    nodes: list[Node],
    layouts: dict[str, NodeLayout],
    pods: list[Pod],
    namespaces: dict[str, Labels],
    minimums: dict[str, int],
    label: Label,
) -> Picture:
    labelled = [node for node in nodes if node.labels.get(label[0]) == label[1]]
    snapshot = build_snapshot(
        labelled,
        serving(layouts.values()),
        pods,
        minimums=minimums,
        now=datetime.now(UTC),
        all_nodes=nodes,
        namespaces=namespaces,
    )
    gated = [
        pod
        for pod in pods
        if pod.claims and not pod.node and not pod.finished and set(pod.gates) - {GATE}
    ]
    made = plan(snapshot, [pod for pod in pods if pod.is_pending])
    held = hold_back(made.refusals, made.reservations, snapshot.nodes)
    return Picture(snapshot, layouts, replace(made, refusals=held), tuple(gated))


def _reading(parse: Callable[[Json], T]) -> Callable[[Json], T | None]:
    """What cannot be read is left out of the picture; the planner says so in its log."""

    def read(obj: Json) -> T | None:
        try:
            return parse(obj)
        except (MpsliceError, AttributeError, KeyError, TypeError, ValueError):
            return None

    return read


_node = _reading(parse_node)
_layout = _reading(parse_node_layout)
_pod = _reading(parse_pod)
