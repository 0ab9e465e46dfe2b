"""Brings the slices that stand to the layout that is wanted, and reports how far it got.

It asks `decision.decide`, does that one thing, and asks again; what others see of it is written
only once it can be given to containers.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Final

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.errors import KubeError
from mpslice.nodelayout import Condition, NodeLayout
from nodeagent.cluster.publisher import Publisher
from nodeagent.cluster.report import ready, released
from nodeagent.cluster.view import Observed
from nodeagent.layout.decision import Decision, Obstacle, decide, still_goes
from nodeagent.layout.standing import applied, not_applied, standing_gpus
from nodeagent.layout.withdrawal import Withdrawal
from nodeagent.metrics import Metrics
from nodeagent.seams import Demand, Enforcer, Handoff
from nodeagent.settings import Settings
from nodeagent.slices.table import SliceTable

RETRY_PENDING_SECONDS: Final = 1.0
"""When a withdrawal that waited in vain for pods to arrive is tried again."""

RETRY_BEHIND_SECONDS: Final = 5.0
"""Likewise, when nothing but a scheduler that is behind an outage was in its way."""

ENFORCED_SECONDS: Final = 2.0
"""How long a slice is held back until it is enforced, which takes MPS some 50 ms, before everything
else goes on without it; a daemon that starts takes longer."""

log = logging.getLogger(__name__)

Wanted = Callable[[], NodeLayout | None]
"""The newest NodeLayout; it may raise InvalidNodeLayout."""


@dataclass(slots=True)
class Executor:
    """One `converge` at a time."""

    settings: Settings
    table: SliceTable
    handoff: Handoff
    enforcer: Enforcer
    publisher: Publisher
    withdrawal: Withdrawal
    metrics: Metrics
    readiness: Callable[[], Condition] = ready
    verified: Callable[[], Condition | None] = lambda: None
    _acknowledged: int = field(default=-1, init=False)
    _resting_for: int = field(default=-1, init=False)
    _retry_at: float | None = field(default=None, init=False)
    _starting: frozenset[GpuUuid] = field(default=frozenset(), init=False)

    async def converge(self, wanted: Wanted) -> float | None:
        """Does what is left to do; returns the seconds after which to try again, None for never.

        Raises KubeError, or AgentError for what passes; whatever was done until then stands and is
        true.
        """
        started = perf_counter()
        while True:
            layout = wanted()
            self.publisher.node.release = layout.spec.release if layout else None
            await self.publisher.catch_up(layout)
            if layout is None:
                await self._keep_serving()
                return self._again()
            if layout.generation != self._resting_for:
                self._resting_for = layout.generation  # what one layout waited for is its own
                self.table.rest(self.table.resting(0), until=0)
            decision = await self._ask_of_enforcer(layout)
            if decision.withdraw:
                await (
                    self._offer()
                )  # a withdrawal writes the node's status, which pods are bound by
                await self._withdraw(decision.withdraw, layout.generation, wanted)
                continue
            self.metrics.carved(len(decision.carve))
            await self._offer(decision.carve)
            after = self._decide(layout)
            await self._publish(layout, after)
            if after.settled:
                if not after.waiting and self._acknowledged != layout.generation:
                    self._acknowledged = layout.generation
                    self.metrics.applied(perf_counter() - started)
                return self._again()

    def _again(self) -> float | None:
        """The seconds until something is due, None when nothing is."""
        dues = [at for at in (self._retry_at, self.publisher.due) if at is not None]
        return max(0.0, min(dues) - monotonic()) if dues else None

    async def _keep_serving(self) -> None:
        """Without a NodeLayout what stands stays bindable."""
        await self._offer()
        await self.publisher.node.write()

    async def _offer(self, new: Sequence[DeviceId] = ()) -> None:
        """Only what can be given to a container is counted anywhere."""
        await self.handoff.offer(new, sure=self.publisher.node.differs())

    def _decide(self, layout: NodeLayout, gone: Collection[DeviceId] = ()) -> Decision:
        """What there is to do, once those that are `gone` do not stand."""
        resting = self.table.resting(monotonic())
        self._retry_at = min(resting.values(), default=None)
        standing = standing_gpus(self.table, resting, self.settings, self._starting, gone)
        return decide(standing, layout.spec)

    async def _ask_of_enforcer(self, layout: NodeLayout) -> Decision:
        """What can be done once the slices that are to be have been granted.

        A slice is shown to nobody before a container in it would be held to it.
        """
        self._starting = frozenset()
        decision = self._decide(layout)
        coming = decision.carve
        if decision.withdraw:
            coming = self._decide(layout, frozenset(decision.withdraw)).carve
        self.handoff.expect(coming)
        demand = Demand(
            gpus=tuple(self.table.gpus.values()),
            slices=(*self.table.slices, *decision.carve),
            used=frozenset(self.table.holders),
            release=layout.spec.release,
        )
        await self.enforcer.grant(demand)
        if decision.carve:
            carved = {device.gpu for device in decision.carve}
            self._starting = await self.enforcer.lagging(carved, ENFORCED_SECONDS)
        return self._decide(layout) if self._starting else decision

    async def _withdraw(self, ids: Sequence[DeviceId], generation: int, wanted: Wanted) -> None:
        postponed = await self.withdrawal.postponed(ids)
        self.table.rest(postponed, until=monotonic() + RETRY_BEHIND_SECONDS)
        going = [device for device in ids if device not in postponed]

        def superseded() -> bool:
            newest = wanted()
            if newest is None or newest.generation == generation:
                return newest is None
            # Each attempt waits from the beginning: what is to go anyway is not begun again.
            return not still_goes(going, standing_gpus(self.table, (), self.settings), newest.spec)

        kept = await self.withdrawal.withdraw(going, superseded) if going else {}
        awaited = [id_ for id_, why in kept.items() if why is Obstacle.PODS_PENDING]
        self.table.rest(awaited, until=monotonic() + RETRY_PENDING_SECONDS)
        self.metrics.withdrawn(len(going) - len(kept), len(kept) + len(postponed))

    async def _publish(self, layout: NodeLayout, decision: Decision) -> None:
        started = perf_counter()
        # While more is to come nothing is acknowledged.
        acknowledged = layout.generation if decision.settled and not decision.waiting else None
        conditions = [self.readiness(), self._applied(decision)]
        if (verified := self.verified()) is not None:
            conditions.append(verified)
        if layout.spec.release:
            conditions.append(released(self.table, self.enforcer.health().keys()))
        release = layout.spec.release and not self.table.slices
        await self.publisher.write(layout, acknowledged, conditions, release=release)
        self.metrics.published(perf_counter() - started)

    def _applied(self, decision: Decision) -> Condition:
        if not decision.settled:
            return not_applied("Applying", "slices are being withdrawn")
        if decision.waiting:
            return not_applied("Applying", "; ".join(decision.waiting))
        return applied(decision.blocked)

    async def report_trouble(self, observed: Observed | None, reason: str, message: str) -> None:
        """Says in the NodeLayout that the node is not served now; as far as it can be written."""
        if observed is None:
            return
        try:
            await self.publisher.write_trouble(observed.layout, ready(reason, message))
        except KubeError as error:
            log.info("trouble could not be reported", extra={"error": str(error)})

    async def report_invalid(self, layout: NodeLayout, message: str) -> None:
        """Acknowledges a spec that cannot be read; what stands stays, and stays bindable."""
        await self._keep_serving()
        conditions = [self.readiness(), not_applied("InvalidLayout", message)]
        await self.publisher.write_layout(layout, layout.generation, conditions)
