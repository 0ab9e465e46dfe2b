"""Writes what `report` says to the API server: the node's status and the NodeLayout's.

A write that would change nothing is left out, by what the server answered last; everything that
the agent says about the node goes into one patch.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mpslice.gpus import DeviceId
from mpslice.kube.api import NODE_LAYOUTS, NODES, Json, Kube, PatchType
from mpslice.kube.errors import NotFound
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    LayoutStatus,
    NodeLayout,
    merge_conditions,
    status_to_json,
)
from mpslice.slices import SliceSize
from nodeagent.cluster.report import (
    Amount,
    NodeFacts,
    gpu_statuses,
    mirrored_annotations,
    node_patch,
    node_resources,
    project_node,
    used_resources,
    version_of,
)
from nodeagent.settings import Settings
from nodeagent.slices.holders import Holder, Pods
from nodeagent.slices.inventory import Inventory

Ready = tuple[str, str, str]
"""Of the condition Ready what tells whether the node is served: status, reason and message."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the NodeLayout shows of the condition Ready, and in which version of the object."""

    ready: Ready = ("", "", "")
    version: int = 0


def _ready_of(conditions: Iterable[Condition]) -> Ready:
    ready = next((c for c in conditions if c.type is ConditionType.READY), None)
    return ("", "", "") if ready is None else (str(ready.status), ready.reason, ready.message)


class Publisher:
    """Every call raises a KubeError when it could not write."""

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        inventory: Inventory,
        holders: Mapping[DeviceId, Holder],
        reported: Callable[[], LayoutStatus],
        shown: Callable[[], Shown],
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._inventory = inventory
        self._holders = holders
        self._reported = reported
        self._shown = shown
        self._node = NodeFacts()
        self._written: Json | None = None
        self._written_to = ""
        self._version = 0  # of the object since our last write
        self._conditions: tuple[Condition, ...] = ()
        self._observed = 0

    def saw_node(self, node: NodeFacts) -> None:
        """A newer reading of the node, whoever wrote it."""
        if node.version >= self._node.version:
            self._node = node

    @property
    def node(self) -> NodeFacts:
        """The newest reading of the node."""
        return self._node

    def node_differs(self) -> bool:
        """Whether the node's status says something else of our slices than we do."""
        return "status" in node_patch(self._node, node_resources(self._inventory), {})

    async def write_node(self, *, release: bool = False, sure: bool = False) -> None:
        """Resources and annotations of the node, in one patch.

        `sure` writes the resources even when the node seems to show them: our reading may be old.
        """
        resources = node_resources(self._inventory)
        if sure:
            self._node = replace(self._node, resources={})
        await self._patch_node(resources, release=release)

    async def close_node(self, pods: Pods) -> None:
        """Nothing more can be bound than what these pods hold; for an agent that goes away."""
        await self._patch_node(used_resources(self._inventory, self._holders, pods))

    async def _patch_node(
        self, resources: Mapping[SliceSize, Amount], *, release: bool = False
    ) -> None:
        gpus = gpu_statuses(self._inventory, self._holders, self._settings)
        annotations = {} if release else mirrored_annotations(gpus)
        patch = node_patch(self._node, resources, annotations)
        if patch:
            answer = await self._kube.patch(
                NODES,
                self._settings.node_name,
                patch,
                type=PatchType.MERGE,
                subresource="status",
            )
            self.saw_node(project_node(answer))

    async def write_trouble(self, layout: NodeLayout, trouble: Condition) -> None:
        """Only the condition Ready is news; what was said of the last generation stays said."""
        self._begin_with(layout)
        others = [c for c in self._conditions if c.type is not ConditionType.READY]
        await self.write_layout(layout, None, [trouble, *others])

    def _begin_with(self, layout: NodeLayout) -> None:
        if self._written_to != layout.uid:  # another object of the name, or our first
            status = self._reported()
            self._written, self._written_to = None, layout.uid
            self._conditions, self._observed = status.conditions, status.observed_generation

    async def write_layout(
        self, layout: NodeLayout, acknowledged: int | None, conditions: Sequence[Condition]
    ) -> None:
        """The NodeLayout's status; nothing when the object is gone.

        `acknowledged` becomes observedGeneration; None leaves that as it was.
        """
        self._begin_with(layout)
        observed_generation = self._observed if acknowledged is None else acknowledged
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        merged = merge_conditions(self._conditions, conditions, now=now)
        gpus = gpu_statuses(self._inventory, self._holders, self._settings)
        status = status_to_json(LayoutStatus(observed_generation, gpus, merged))
        if status == self._written and not self._was_overwritten():
            return
        try:
            answer = await self._kube.patch(
                NODE_LAYOUTS,
                layout.name,
                {"status": status},
                type=PatchType.MERGE,
                subresource="status",
            )
        except NotFound:
            log.info("the NodeLayout is gone", extra={"node": layout.name})
            return
        self._written, self._conditions, self._observed = status, merged, observed_generation
        self._version = version_of(answer)

    def _was_overwritten(self) -> bool:
        """Whether somebody else has written since: an agent before us that ends late, a person."""
        shown = self._shown()
        return shown.version > self._version and shown.ready != _ready_of(self._conditions)
