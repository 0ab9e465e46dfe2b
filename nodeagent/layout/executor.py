"""Brings the slices that stand to the layout that is wanted, and reports how far it got.

It asks `decision.decide`, does that one thing, and asks again; what others see of it is written
only once the kubelet knows it: the node's status first, then the NodeLayout's, on which pods go.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Final

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.errors import KubeError
from mpslice.nodelayout import Condition, NodeLayout
from nodeagent.cluster.publisher import Publisher
from nodeagent.cluster.report import applied, not_applied, ready, released, standing_gpus
from nodeagent.cluster.view import Observed
from nodeagent.hardware import MpsControl
from nodeagent.kubelet.knowledge import KNOWN_SECONDS, KubeletKnowledge
from nodeagent.kubelet.link import KubeletLink
from nodeagent.layout.decision import Decision, Obstacle, decide
from nodeagent.layout.withdrawal import Withdrawal
from nodeagent.metrics import Metrics
from nodeagent.mps.backstops import backstops
from nodeagent.settings import Settings
from nodeagent.slices.inventory import Inventory
from nodeagent.slices.ledger import Ledger

RETRY_PENDING_SECONDS: Final = 1.0
"""When a withdrawal that waited in vain for pods to arrive is tried again."""

BACKSTOP_SECONDS: Final = 2.0
"""How long a slice is held back for its daemon's limit, which takes some 50 ms, before everything
else goes on without it; a daemon that starts takes longer."""

log = logging.getLogger(__name__)

Wanted = Callable[[], NodeLayout | None]
"""The newest NodeLayout; it may raise InvalidNodeLayout."""


@dataclass(slots=True)
class _Patience:
    """Withdrawals that waited for pods in vain rest before they are tried again."""

    _ids: frozenset[DeviceId] = frozenset()
    _generation: int = -1
    _until: float = 0.0

    def begin(self, generation: int, kept: Mapping[DeviceId, Obstacle]) -> None:
        pending = [id_ for id_, why in kept.items() if why is Obstacle.PODS_PENDING]
        if pending:
            self._ids |= frozenset(pending)
            self._generation = generation
            self._until = monotonic() + RETRY_PENDING_SECONDS

    def still_kept(self, generation: int) -> dict[DeviceId, Obstacle]:
        """Those that rest; all others of that time are tried again from now on."""
        if generation != self._generation or self.seconds_left() == 0:
            self._ids = frozenset()
        return dict.fromkeys(self._ids, Obstacle.PODS_PENDING)

    def seconds_left(self) -> float | None:
        """Until some are to be tried again; None where none rest."""
        return max(0.0, self._until - monotonic()) if self._ids else None


@dataclass(slots=True)
class Executor:
    """One `converge` at a time."""

    settings: Settings
    inventory: Inventory
    ledger: Ledger
    link: KubeletLink
    knowledge: KubeletKnowledge
    publisher: Publisher
    withdrawal: Withdrawal
    mps: MpsControl
    metrics: Metrics
    tasks: asyncio.TaskGroup
    readiness: Callable[[], Condition] = ready
    _patience: _Patience = field(default_factory=_Patience, init=False)
    _confirmed: tuple[int, int] = field(default=(-1, -1), init=False)
    _generation: int = field(default=-1, init=False)
    _starting: frozenset[GpuUuid] = field(default=frozenset(), init=False)

    async def converge(self, wanted: Wanted) -> float | None:
        """Does what is left to do; returns the seconds after which to try again, None for never.

        Raises KubeError, or AgentError for what passes; whatever was done until then stands and is
        true.
        """
        kept: dict[DeviceId, Obstacle] = {}
        generation, started = -1, perf_counter()
        while True:
            layout = wanted()
            if layout is None:
                await self._keep_serving()
                return None
            if layout.generation != generation:  # what one layout waited for is not the next one's
                generation = layout.generation
                kept = self._patience.still_kept(generation)
            decision = await self._ask_of_daemons(layout, kept)
            if decision.carve:
                self.inventory.add(decision.carve)
                self.metrics.carved(len(decision.carve))
            elif decision.withdraw:
                await self._confirm()  # it writes the node's status, which pods are bound by
                kept |= await self._withdraw(decision.withdraw, generation, wanted)
                continue
            await self._confirm()
            after = self._decide(layout, kept)
            await self._publish(layout, after)
            if after.settled:
                if not after.waiting:
                    self._acknowledged(layout, perf_counter() - started)
                return self._patience.seconds_left()

    def _acknowledged(self, layout: NodeLayout, seconds: float) -> None:
        if self._generation != layout.generation:
            self._generation = layout.generation
            self.metrics.applied(seconds)

    async def _keep_serving(self) -> None:
        """Without a NodeLayout what stands stays bindable."""
        await self._confirm()
        await self.publisher.write_node()

    def _decide(self, layout: NodeLayout, kept: Mapping[DeviceId, Obstacle]) -> Decision:
        standing = standing_gpus(
            self.inventory, self.ledger.holders, kept, self.settings, self._starting
        )
        return decide(standing, layout.spec)

    async def _ask_of_daemons(
        self, layout: NodeLayout, kept: Mapping[DeviceId, Obstacle]
    ) -> Decision:
        """What can be done once the MPS daemons were asked to grant the slices that are to be.

        A slice is shown to nobody before its daemon holds its clients to it.
        """
        self._starting = frozenset()
        decision = self._decide(layout, kept)
        wanted = backstops(
            self.inventory.gpus.values(),
            (*self.inventory.slices, *decision.carve),
            self.ledger.holders,
            self.settings,
            self.mps.held,
            release=layout.spec.release,
        )
        await self.mps.hold(wanted)
        if decision.carve:
            carved = {device.gpu for device in decision.carve}
            self._starting = await self.mps.lagging(carved, BACKSTOP_SECONDS)
        return self._decide(layout, kept) if self._starting else decision

    async def _withdraw(
        self, ids: Sequence[DeviceId], generation: int, wanted: Wanted
    ) -> dict[DeviceId, Obstacle]:
        def superseded() -> bool:
            newest = wanted()
            return newest is None or newest.generation != generation

        kept = await self.withdrawal.withdraw(ids, superseded)
        self._patience.begin(generation, kept)
        self.metrics.withdrawn(len(ids) - len(kept), len(kept))
        return kept

    async def _confirm(self) -> None:
        """Sees to it that the kubelet knows every slice; only then is it counted anywhere."""
        sizes = self.inventory.sizes
        self.link.serve(sizes, self.tasks)
        await self.link.until_live(sizes, KNOWN_SECONDS)
        state = (self.inventory.changed.count, self.link.changed.count)
        if state == self._confirmed and not self.publisher.node_differs():
            return
        self.inventory.confirm(await self.knowledge.until_known(self._offered))
        self._confirmed = state

    def _offered(self) -> frozenset[DeviceId]:
        return frozenset(filter(self.inventory.is_offered, self.inventory.slices))

    async def _publish(self, layout: NodeLayout, decision: Decision) -> None:
        started = perf_counter()
        release = layout.spec.release and not self.inventory.slices
        await self.publisher.write_node(release=release)
        # While more is to come nothing is acknowledged.
        acknowledged = layout.generation if decision.settled and not decision.waiting else None
        conditions = [self.readiness(), self._applied(decision)]
        if layout.spec.release:
            conditions.append(released(self.inventory, self.mps.health().keys()))
        await self.publisher.write_layout(layout, acknowledged, conditions)
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
