"""Takes free slices away without ever pulling one from under a container, or the kubelet down.

The order is everything (DESIGN.md, section 8): a list without an id that the kubelet is just
allocating makes it crash (kubelet/cm/devicemanager/manager.go, GetDeviceRunContainerOptions).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Final

from mpslice.gpus import DeviceId
from mpslice.kube.api import PODS, Kube, list_all
from mpslice.slices import SliceSize
from nodeagent.cluster.publisher import Publisher
from nodeagent.kubelet.knowledge import KubeletKnowledge
from nodeagent.layout.decision import Obstacle
from nodeagent.slices.inventory import Inventory
from nodeagent.slices.ledger import Ledger
from nodeagent.slices.pods import PodFacts, project_pod

PODS_SECONDS: Final = 2.0
"""How long pods that are on their way are waited for before the withdrawal is given up."""

_FIRST_LOOK: Final = 0.010
_LONGEST_LOOK: Final = 0.200

log = logging.getLogger(__name__)

Superseded = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Carries out one withdrawal at a time."""

    kube: Kube
    node_name: str
    inventory: Inventory
    ledger: Ledger
    knowledge: KubeletKnowledge
    publisher: Publisher

    async def withdraw(
        self, ids: Sequence[DeviceId], superseded: Superseded
    ) -> dict[DeviceId, Obstacle]:
        """Withdraws `ids`, but for those returned, which stand and are offered again, and why.

        `superseded` is asked while pods are waited for: a newer layout ends the wait. Raises a
        KubeError or KubeletUnavailable, and then all of them stand again.
        """
        self.inventory.close(ids)
        try:
            await self.publisher.write_node(sure=True)
            # While pods are on their way the slices stay healthy, or the kubelet would refuse them.
            kept = await self._kept(ids, superseded)
            going = frozenset(ids) - kept.keys()
            if going:
                self.inventory.retire(going)
                await self.knowledge.until_hidden(going)
                kept |= await self._kept(going, superseded)
        except BaseException:
            self.inventory.restore(ids)
            raise
        # Nothing is awaited between the last look at the holders and the shorter list.
        self.inventory.restore(kept)
        self.inventory.remove(device for device in ids if device not in kept)
        for device, obstacle in kept.items():
            log.info(
                "a slice stays after all", extra={"slice": str(device), "reason": str(obstacle)}
            )
        return kept

    async def _kept(
        self, ids: Collection[DeviceId], superseded: Superseded
    ) -> dict[DeviceId, Obstacle]:
        """Those that have to stay: held by now, or needed by pods that do not arrive in time."""
        awaited = await self._until_pods_arrive(ids, superseded)
        await self.ledger.refresh()
        waiting = {id_: Obstacle.PODS_PENDING for id_ in ids if id_.size in awaited}
        held = [device for device in ids if device in self.ledger.holders]
        return {**waiting, **dict.fromkeys(held, Obstacle.SLICE_IN_USE)}

    async def _until_pods_arrive(
        self, ids: Collection[DeviceId], superseded: Superseded
    ) -> frozenset[SliceSize]:
        """The sizes that pods might yet be given which are bound here, or about to be.

        None, unless they do not arrive in time. Each look is a consistent read, which a reflector's
        copy is not.
        """
        until, pause = monotonic() + PODS_SECONDS, _FIRST_LOOK
        while True:
            coming = await self._coming({device.size for device in ids})
            if not coming:
                return frozenset()
            if superseded() or monotonic() > until:
                log.info("pods are on their way", extra={"pods": [pod.key for pod in coming[:5]]})
                return frozenset(need.size for pod in coming for need in pod.needs)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
            await self.ledger.refresh()

    async def _coming(self, sizes: set[int]) -> list[PodFacts]:
        here, elsewhere = await asyncio.gather(
            self._read_pods(f"spec.nodeName={self.node_name}"),
            self._read_pods("spec.nodeName=,status.phase=Pending"),
        )
        now = time()
        bound = [p for p in here if not (p.ended or p.admitted or self.ledger.shows(p))]
        unbound = [p for p in elsewhere if p.on_its_way_to(self.node_name, now)]
        return [p for p in (*bound, *unbound) if any(need.size in sizes for need in p.needs)]

    async def _read_pods(self, field_selector: str) -> list[PodFacts]:
        pods = await list_all(self.kube, PODS, query={"fieldSelector": field_selector})
        return [facts for facts in map(project_pod, pods) if facts is not None]
