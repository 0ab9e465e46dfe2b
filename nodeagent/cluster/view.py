"""The agent's view of the cluster: its NodeLayout, its Node and the slice pods of its node.

Three watches with field selectors; what arrives is projected at once and handed on as callbacks.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from mpslice.errors import InvalidNodeLayout
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Kube
from mpslice.kube.outage import catching_up, with_start
from mpslice.kube.reflector import Backoff, Change, Reflector
from mpslice.nodelayout import ConditionType, LayoutStatus, NodeLayout, parse_node_layout
from nodeagent.cluster.publisher import Ready, Shown
from nodeagent.cluster.report import NodeFacts, project_node, version_of
from nodeagent.slices.evidence import Pods
from nodeagent.slices.pods import PodFacts, project_pod

_LONGEST_DELAY: Final = 10.0
"""Seconds between two tries to follow. The agent asks for the few objects of its own node, and what
went while the API server was away is to be there again before the kubelet gets pods for it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The NodeLayout's spec as it was read; `problem` says why it cannot be.

    `status` is what was last reported, unparsed and no part of what makes two of them differ: the
    echo of our own reports, hundreds of slices long, is neither read nor news. What it `shows` is.
    """

    layout: NodeLayout
    problem: str = ""
    shows: Ready = ("", "", "")
    status: Json = field(default_factory=dict, compare=False, repr=False)
    version: int = field(default=0, compare=False)


def project_layout(obj: Json) -> Observed:
    """A NodeLayout object; of a spec that cannot be read only the object's identity is kept."""
    status = dict(obj.get("status") or {})
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    try:
        layout = parse_node_layout({"metadata": metadata, "spec": obj.get("spec")})
    except InvalidNodeLayout as error:
        layout = parse_node_layout({"metadata": metadata})
        return Observed(layout, str(error), _shows(status), status, version_of(obj))
    return Observed(layout, shows=_shows(status), status=status, version=version_of(obj))


def _shows(status: Json) -> Ready:
    for condition in status.get("conditions") or ():
        if condition.get("type") == ConditionType.READY:
            served = str(condition.get("status") == "True")
            return served, str(condition.get("reason") or ""), str(condition.get("message") or "")
    return "", "", ""


def reported_status(observed: Observed | None) -> LayoutStatus:
    """What was last reported; a status that cannot be read is ours to replace, and none."""
    if observed is None:
        return LayoutStatus()
    try:
        parsed = parse_node_layout(
            {"metadata": {"name": observed.layout.name}, "status": observed.status}
        )
    except InvalidNodeLayout:
        return LayoutStatus()
    return parsed.status or LayoutStatus()


class ClusterView:
    """`synced` once everything has been listed; callbacks run on the event loop."""

    def __init__(
        self,
        kube: Kube,
        node_name: str,
        *,
        on_layout: Callable[[], None],
        on_node: Callable[[NodeFacts], None],
        on_pod: Callable[[Change[PodFacts]], None],
    ) -> None:
        self._node_name = node_name
        self._on_node = on_node
        self._started = monotonic()
        by_name = f"metadata.name={node_name}"
        self._layouts: Reflector[Observed] = Reflector(
            kube,
            NODE_LAYOUTS,
            project_layout,
            lambda _: on_layout(),
            field_selector=by_name,
            backoff=Backoff(longest=_LONGEST_DELAY),
        )
        self._nodes: Reflector[NodeFacts] = Reflector(
            kube,
            NODES,
            project_node,
            self._node_changed,
            field_selector=by_name,
            backoff=Backoff(longest=_LONGEST_DELAY),
        )
        self._pods: Reflector[PodFacts] = Reflector(
            kube,
            PODS,
            project_pod,
            on_pod,
            field_selector=f"spec.nodeName={node_name}",
            backoff=Backoff(longest=_LONGEST_DELAY),
        )

    def follow(self, tasks: asyncio.TaskGroup) -> None:
        """Starts the three watches."""
        for reflector in (self._layouts, self._nodes, self._pods):
            tasks.create_task(reflector.run(), name=f"follow {reflector.resource.plural}")

    async def synced(self) -> None:
        """Returns once everything has been listed, however long the API server is away."""
        for reflector in (self._layouts, self._nodes, self._pods):
            await reflector.synced.wait()

    @property
    def is_synced(self) -> bool:
        """Whether everything has been listed once."""
        return all(r.synced.is_set() for r in (self._layouts, self._nodes, self._pods))

    def scheduler_is_behind(self) -> bool:
        """Whether kube-scheduler may still go by what nodes showed before an outage, which may have
        been before this agent started, too."""
        return catching_up(monotonic(), with_start(self._started, self._nodes.outages))

    def unanswered(self) -> None:
        """A request was not answered, or with an error of the API server's own."""
        self._nodes.unanswered(monotonic())

    def observed(self) -> Observed | None:
        """The NodeLayout as it is now; None while there is none."""
        return self._layouts.objects.get(self._node_name)

    def reported(self) -> LayoutStatus:
        """What the NodeLayout's status says now, whoever wrote it."""
        return reported_status(self.observed())

    def shown(self) -> Shown:
        """What the NodeLayout shows of the condition Ready, whoever wrote it."""
        observed = self.observed()
        return Shown(observed.shows, observed.version) if observed is not None else Shown()

    def wanted(self) -> NodeLayout | None:
        """The NodeLayout to apply; raises InvalidNodeLayout for a spec that cannot be read."""
        observed = self.observed()
        if observed is not None and observed.problem:
            raise InvalidNodeLayout(observed.problem)
        return observed.layout if observed else None

    def node(self) -> NodeFacts | None:
        """The node as it is now; None when there is none."""
        return self._nodes.objects.get(self._node_name)

    def pods(self) -> Pods:
        """The slice pods of the node, ended ones included."""
        return Pods.of(self._pods.objects.values())

    def _node_changed(self, change: Change[NodeFacts]) -> None:
        if change.new is not None:
            self._on_node(change.new)
