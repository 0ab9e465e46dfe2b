"""When what is written: the node's status, the NodeLayout's, and which of them first.

New slices are counted on by the node's status, which names the layout that they are of; the
NodeLayout's status follows once nobody waits.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from mpslice.kube.api import NODE_LAYOUTS, Json, Kube, PatchType
from mpslice.kube.errors import KubeError, NotFound
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    LayoutStatus,
    NodeLayout,
    merge_conditions,
    status_to_json,
)
from nodeagent.cluster.node import NodeStatus
from nodeagent.cluster.report import (
    gpu_statuses,
    version_of,
)
from nodeagent.settings import Settings
from nodeagent.slices.table import SliceTable

Ready = tuple[str, str, str]
"""Of the condition Ready what tells whether the node is served: status, reason and message."""

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
    """Every call raises a KubeError when it could not write."""

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        table: SliceTable,
        reported: Callable[[], LayoutStatus],
        shown: Callable[[], Shown],
    ) -> None:
        self.node = NodeStatus(kube, settings, table)
        self._later: Later | None = None
        self._kube = kube
        self._settings = settings
        self._table = table
        self._reported = reported
        self._shown = shown
        self._written: Json | None = None
        self._written_to = ""
        self._version = 0  # of the object since our last write
        self._conditions: tuple[Condition, ...] = ()
        self._observed = 0
        self._told_health: object = None

    @property
    def due(self) -> float | None:
        """When something has to be written though nothing happens (monotonic), None for never."""
        later = None if self._later is None else self._later.at
        return min((at for at in (self.node.due, later) if at is not None), default=None)

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
            await self.node.write(release=True)
            await self.write_layout(layout, acknowledged, conditions)
            return
        self._begin_with(layout)
        if self._is_told_by_node(acknowledged, conditions):
            await self._write_node_first(layout, acknowledged, conditions)
            return
        node = asyncio.create_task(self.node.write())
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

    def _is_told_by_node(self, acknowledged: int | None, conditions: Sequence[Condition]) -> bool:
        """Whether the node's next patch, if it needs one, tells a plan all that is new: that a
        layout is applied which was not acknowledged yet."""
        return (
            acknowledged is not None
            and acknowledged > self._observed
            and _is_applied(conditions)
            and self._told_health == self._health(conditions)
        )

    async def _write_node_first(
        self, layout: NodeLayout, acknowledged: int | None, conditions: Sequence[Condition]
    ) -> None:
        try:
            told = await self.node.write(applied=layout.version_tag)
        except KubeError:
            await self.write_layout(layout, acknowledged, conditions)
            raise
        if told:
            at = monotonic() + LATER_SECONDS if self._later is None else self._later.at
            self._later = Later(layout, acknowledged, conditions, at)
        else:
            await self.write_layout(layout, acknowledged, conditions)

    async def catch_up(self, layout: NodeLayout | None) -> None:
        """Writes what was to follow later, before another layout is begun with: until it is
        applied, the status alone tells what stands. What was to follow of a NodeLayout that is gone
        is dropped."""
        later = self._later
        if later is None or (layout and later.layout.version_tag == layout.version_tag):
            return
        if layout is None or later.layout.uid != layout.uid:
            self._later = None
            return
        await self.write_layout(later.layout, later.acknowledged, later.conditions)

    async def write_trouble(self, layout: NodeLayout, trouble: Condition) -> None:
        """Only the condition Ready is news; what was said of the last generation stays said."""
        self._begin_with(layout)
        acknowledged, conditions = None, self._conditions
        if self._later is not None and self._later.layout.uid == layout.uid:
            acknowledged, conditions = self._later.acknowledged, tuple(self._later.conditions)
        others = [c for c in conditions if c.type is not ConditionType.READY]
        await self.write_layout(layout, acknowledged, [trouble, *others])

    def _begin_with(self, layout: NodeLayout) -> None:
        if self._written_to != layout.uid:  # another object of the name, or our first
            status = self._reported()
            self._written, self._written_to = None, layout.uid
            self._conditions, self._observed = status.conditions, status.observed_generation
            self._told_health = None

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
        gpus = gpu_statuses(self._table, self._settings)
        status = status_to_json(LayoutStatus(observed_generation, gpus, merged))
        if status == self._written and not self._was_overwritten():
            self._later = None
            return
        self._written = None  # the answer may be lost although the write is done
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
            self._later = None
            return
        self._later = None
        self._written, self._conditions, self._observed = status, merged, observed_generation
        self._told_health = self._health(merged)
        self._version = version_of(answer)

    def _health(self, conditions: Iterable[Condition]) -> object:
        """What the NodeLayout tells besides slices that a plan has to know at once."""
        gpus = [(gpu.uuid, gpu.healthy, gpu.objection) for gpu in self._table.gpus.values()]
        return _ready_of(conditions), sorted(gpus)

    def _was_overwritten(self) -> bool:
        """Whether somebody else has written since: an agent before us that ends late, a person."""
        shown = self._shown()
        return shown.version > self._version and shown.ready != _ready_of(self._conditions)
