"""Writes what `report` says to the API server: the node's status and the NodeLayout's.

A write that would change nothing is left out, by what the server answered last; everything that
the agent says about the node goes into one patch. New slices are counted on by the node's status,
which names the layout that they are of; the NodeLayout's status follows once nobody waits.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from mpslice.kube.api import NODE_LAYOUTS, NODES, Json, Kube, PatchType
from mpslice.kube.errors import KubeError, NotFound
from mpslice.nodelayout import (
    APPLIED_ANNOTATION,
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
    offered_gb,
    project_node,
    used_resources,
    version_of,
)
from nodeagent.cluster.servertime import ServerTime
from nodeagent.pulse import Pulse
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Pods
from nodeagent.slices.table import SliceTable

Ready = tuple[str, str, str]
"""Of the condition Ready what tells whether the node is served: status, reason and message."""

ANNOTATIONS_SECONDS: Final = 60.0
"""How long nos's annotations may be behind where they alone would be a write. Nothing of mpslice
reads them, and a pod's life would else cost two writes more."""

LATER_SECONDS: Final = 0.1
"""How long the NodeLayout's status waits where the node's has said it all. Meanwhile a pod is bound
to the new slice, which that write would slow down, and often one write then tells both."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Later:
    """A status of the NodeLayout that is due `at` (monotonic)."""

    layout: NodeLayout
    acknowledged: int | None
    conditions: Sequence[Condition]
    at: float


@dataclass(frozen=True, slots=True)
class Shown:
    """What the NodeLayout shows of the condition Ready, and in which version of the object."""

    ready: Ready = ("", "", "")
    version: int = 0


def _ready_of(conditions: Iterable[Condition]) -> Ready:
    ready = next((c for c in conditions if c.type is ConditionType.READY), None)
    return ("", "", "") if ready is None else (str(ready.status), ready.reason, ready.message)


def _is_applied(conditions: Iterable[Condition]) -> bool:
    return any(c.type is ConditionType.APPLIED and c.status for c in conditions)


class Publisher:
    """Every call raises a KubeError when it could not write.

    `release` is what the NodeLayout says, None without one. `offers_gb` turns False once
    mpslice.io/gb can go from a node whose agent is not to offer it.
    `due` is when something has to be written though nothing happens (monotonic), None for never.
    `seen` beats with each newer reading of the node, which `server_time` is known by.
    """

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        table: SliceTable,
        reported: Callable[[], LayoutStatus],
        shown: Callable[[], Shown],
    ) -> None:
        self.release: bool | None = None
        self.offers_gb = True
        self._annotations_due: float | None = None
        self._later: Later | None = None
        self.seen = Pulse()
        self.server_time = ServerTime()
        self._kube = kube
        self._settings = settings
        self._table = table
        self._reported = reported
        self._shown = shown
        self._node = NodeFacts()
        self._written: Json | None = None
        self._written_to = ""
        self._version = 0  # of the object since our last write
        self._conditions: tuple[Condition, ...] = ()
        self._observed = 0
        self._told: object = None  # of `_health`, in the NodeLayout's status

    @property
    def due(self) -> float | None:
        later = None if self._later is None else self._later.at
        return min((at for at in (self._annotations_due, later) if at is not None), default=None)

    def saw_node(self, node: NodeFacts) -> None:
        """A newer reading of the node, whoever wrote it."""
        if node.version >= self._node.version:
            self._node = node
            self.server_time.saw(node.written)
            self.seen.beat()

    async def read_node(self) -> None:
        """Reads the node from the API server, because a watch may be behind."""
        self.saw_node(project_node(await self._kube.read(NODES, self._settings.node_name)))

    @property
    def node(self) -> NodeFacts:
        """The newest reading of the node."""
        return self._node

    def node_differs(self) -> bool:
        """Whether the node's status says something else of our slices than we do."""
        return "status" in node_patch(self._node, node_resources(self._table), {}, self._gb())

    def node_is_open(self) -> bool:
        """Whether the node's status offers more slices than we do."""
        return self._offers_more_than(node_resources(self._table))

    def _offers_more_than(self, resources: Mapping[SliceSize, Amount]) -> bool:
        shown = self._node.resources
        return any(
            shown[size].allocatable > resources[size].allocatable
            for size in shown.keys() & resources.keys()
        )

    def _gb(self) -> Amount | None:
        """What the node is to show of mpslice.io/gb.

        Without a NodeLayout the node is not ours, or not any more: what it shows is left alone. The
        kubelet writes allocatable as it finds capacity (kubelet/nodestatus/setters.go), so both say
        the same.
        """
        if self.release is None:
            return self._node.gb
        released = self.release and not self._table.slices
        left_over = not self._settings.quota and self._node.gb is None
        if released or left_over or not self.offers_gb:
            return None
        gb = offered_gb(self._table, self._settings, release=self.release)
        return Amount(gb, gb)

    async def write_node(
        self, *, release: bool = False, sure: Collection[SliceSize] = (), applied: str = ""
    ) -> bool:
        """Resources and annotations of the node, in one patch; whether it names what is `applied`.

        The sizes that are to be `sure` are written even where the node seems to show them so: our
        reading may be old.
        """
        resources = node_resources(self._table)
        known = {size: n for size, n in self._node.resources.items() if size not in sure}
        self._node = replace(self._node, resources=known)
        return await self._patch_node(resources, release=release, at_once=release, applied=applied)

    async def close_node(self, pods: Pods) -> None:
        """Nothing more can be bound than what these pods hold; for an agent that goes away."""
        await self._patch_node(used_resources(self._table, pods), at_once=True)

    async def keep_node_closed(self, pods: Pods) -> None:
        """Closes the node again where the kubelet has opened it: until its plugin had ended, the
        kubelet wrote what that offered, every ten seconds (kubelet's nodeStatusUpdateFrequency).
        """
        await self.read_node()
        used = used_resources(self._table, pods)
        if self._offers_more_than(used):
            await self._patch_node(used, at_once=True)

    async def _patch_node(
        self,
        resources: Mapping[SliceSize, Amount],
        *,
        release: bool = False,
        at_once: bool = False,
        applied: str = "",
    ) -> bool:
        annotations = {} if release else self._annotations()
        patch = node_patch(self._node, resources, annotations, self._gb(), applied)
        if patch and not (at_once or "status" in patch or self._annotations_are_due()):
            return False
        self._annotations_due = None
        if patch:
            answer = await self._kube.patch(
                NODES,
                self._settings.node_name,
                patch,
                type=PatchType.MERGE,
                subresource="status",
            )
            self.saw_node(project_node(answer))
        return bool(applied) and "status" in patch

    def _annotations(self) -> dict[str, str]:
        """nos's, and what the node says of the layout that was applied last."""
        said = self._node.annotations.get(APPLIED_ANNOTATION)
        kept = {} if said is None else {APPLIED_ANNOTATION: said}
        return mirrored_annotations(gpu_statuses(self._table, self._settings)) | kept

    def _annotations_are_due(self) -> bool:
        now = monotonic()
        if self._annotations_due is None:
            self._annotations_due = now + ANNOTATIONS_SECONDS
        return now >= self._annotations_due

    async def write(
        self,
        layout: NodeLayout,
        acknowledged: int | None,
        conditions: Sequence[Condition],
        *,
        release: bool = False,
    ) -> None:
        """The node and the NodeLayout.

        Where all of the layout is applied, the node is written for it, and slices alone are news,
        the node says so, and the NodeLayout follows LATER_SECONDS later. Else both are written at
        once, and neither waits for the other. With `release` it does: after the condition Released
        the agent may be ended, and what is to be taken from the node has to be gone by then.
        """
        if release:
            await self.write_node(release=True)
            await self.write_layout(layout, acknowledged, conditions)
            return
        done = acknowledged is not None and _is_applied(conditions)
        if done and self._told == self._health(conditions) and self.node_differs():
            await self._write_node_first(layout, acknowledged, conditions)
            return
        node = asyncio.create_task(self.write_node())
        try:
            await asyncio.sleep(0)  # the node's goes first: the scheduler has to hear of it, too
            await self.write_layout(layout, acknowledged, conditions)
        except asyncio.CancelledError:
            node.cancel()
            raise
        finally:  # it is waited for, whatever becomes of the other
            (outcome,) = await asyncio.gather(node, return_exceptions=True)
        if isinstance(outcome, BaseException):
            raise outcome

    async def _write_node_first(
        self, layout: NodeLayout, acknowledged: int | None, conditions: Sequence[Condition]
    ) -> None:
        try:
            told = await self.write_node(applied=layout.version_tag)
        except KubeError:
            await self.write_layout(layout, acknowledged, conditions)
            raise
        if told:
            self._later = Later(layout, acknowledged, conditions, monotonic() + LATER_SECONDS)
        else:
            await self.write_layout(layout, acknowledged, conditions)

    async def catch_up(self, layout: NodeLayout) -> None:
        """Writes what is to follow later, before another layout is begun with: the node says no
        more what of this one stands."""
        later = self._later
        if later is not None and later.layout.version_tag != layout.version_tag:
            await self.write_layout(later.layout, later.acknowledged, later.conditions)

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
            self._told = None

    async def write_layout(
        self, layout: NodeLayout, acknowledged: int | None, conditions: Sequence[Condition]
    ) -> None:
        """The NodeLayout's status; nothing when the object is gone.

        `acknowledged` becomes observedGeneration; None leaves that as it was.
        """
        self._later = None
        self._begin_with(layout)
        observed_generation = self._observed if acknowledged is None else acknowledged
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        merged = merge_conditions(self._conditions, conditions, now=now)
        gpus = gpu_statuses(self._table, self._settings)
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
        self._told = self._health(merged)
        self._version = version_of(answer)

    def _health(self, conditions: Iterable[Condition]) -> object:
        """What the NodeLayout tells besides slices that a plan has to know at once."""
        gpus = [(gpu.uuid, gpu.healthy, gpu.objection) for gpu in self._table.gpus.values()]
        return _ready_of(conditions), sorted(gpus)

    def _was_overwritten(self) -> bool:
        """Whether somebody else has written since: an agent before us that ends late, a person."""
        shown = self._shown()
        return shown.version > self._version and shown.ready != _ready_of(self._conditions)
