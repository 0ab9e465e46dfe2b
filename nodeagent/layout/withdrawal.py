"""Takes free slices away without ever pulling one from under a container, or the kubelet down.

The order is everything (docs/design/agent.md, "Withdrawing"): a list without an id that the kubelet
is just allocating makes it crash (kubelet/cm/devicemanager/manager.go,
GetDeviceRunContainerOptions).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from mpslice.gpus import DeviceId
from mpslice.kube.api import PODS, Kube, list_pages
from mpslice.slices import SliceSize
from nodeagent.cluster.publisher import Publisher
from nodeagent.cluster.report import version_of
from nodeagent.layout.decision import Obstacle
from nodeagent.seams import Handoff
from nodeagent.slices.pods import PodFacts, project_pod
from nodeagent.slices.table import SliceTable

PODS_SECONDS: Final = 2.0
"""How long pods that are on their way are waited for before the withdrawal is given up."""

SCHEDULER_SECONDS: Final = 0.5
"""How long a scheduler may go by what the node's status said before it was changed. It takes some
milliseconds to see the change and to bind what it had decided; nothing tells when it has."""

_UNBOUND: Final = "spec.nodeName=,status.phase=Pending"
_FIRST_LOOK: Final = 0.010
_LONGEST_LOOK: Final = 0.200

log = logging.getLogger(__name__)

Superseded = Callable[[], bool]


@dataclass(slots=True)
class Withdrawal:
    """Carries out one withdrawal at a time.

    While `scheduler_is_behind` a scheduler may go by what nodes showed before an outage.
    """

    kube: Kube
    node_name: str
    table: SliceTable
    handoff: Handoff
    publisher: Publisher
    scheduler_is_behind: Callable[[], bool]
    _hidden: frozenset[DeviceId] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        self.publisher.node.seen.listen(self._node_seen)

    async def postponed(self, ids: Sequence[DeviceId]) -> frozenset[DeviceId]:
        """Those that a scheduler may still choose by what nodes showed before an outage.

        Nothing is gained by closing them now: such a scheduler does not see it. Raises a KubeError.
        """
        if not self.scheduler_is_behind():
            return frozenset()
        others, _ = await self._read_pods(_UNBOUND)
        node, now = self.node_name, self.publisher.node.server_time.now()
        late = [
            pod
            for pod in others
            if pod.on_its_way_to(node, now, old_status=False, behind=True)
            and not pod.on_its_way_to(node, now, old_status=False)
        ]
        return frozenset(device for device in ids if any(p.needs_any([device.size]) for p in late))

    async def withdraw(
        self, ids: Sequence[DeviceId], superseded: Superseded
    ) -> dict[DeviceId, Obstacle]:
        """Withdraws `ids`, but for those returned, which stand and are offered again, and why.

        `superseded` is asked while pods are waited for: a newer layout that keeps one of them ends
        the wait. Raises a KubeError or KubeletUnavailable, and then all of them stand again.
        """
        self.table.close(ids)
        try:
            kept = await self._hide(ids, superseded)
        except BaseException:
            self.table.restore(ids)
            raise
        finally:
            self._hidden = frozenset()
        # Nothing is awaited between the last look at the holders and the shorter list.
        self.table.restore(kept)
        removed = [device for device in ids if device not in kept]
        self.table.remove(removed)
        for device, obstacle in kept.items():
            log.info(
                "a slice stays after all", extra={"slice": str(device), "reason": str(obstacle)}
            )
        self.handoff.forget(removed)
        return kept

    async def until_nobody_comes(self, seconds: float) -> None:
        """Waits until no pod is on its way to a free slice, at most so long; for an agent that goes
        away, once the node offers nothing more. Raises a KubeError."""
        ids = [device for device in self.table.slices if device not in self.table.holders]
        seen_at, pause = monotonic() + SCHEDULER_SECONDS, _FIRST_LOOK
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while ids and await self._coming(ids, old_status=monotonic() < seen_at):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_LOOK)
                    await self.handoff.look()

    async def _hide(
        self, ids: Sequence[DeviceId], superseded: Superseded
    ) -> dict[DeviceId, Obstacle]:
        """Hides the slices from the kubelet, but for those returned, which have to stay.

        While pods are on their way the slices are healthy, or the kubelet would refuse the pods.
        What the kubelet offered until then it may have written into the node's status: it sends
        what its own copy of that shows otherwise, without a version, so a write of it may arrive
        after ours (kubelet_node_status.go, tryUpdateNodeStatus). Hidden slices that the status
        offers, or that a pod comes for, are healthy again at once; after such a write the kubelet
        makes no other for ten seconds.
        """
        until = monotonic() + PODS_SECONDS
        seen_at = await self._show_less(ids)
        while True:
            awaited, seen_at = await self._until_pods_arrive(ids, seen_at, until, superseded)
            kept = self._kept(ids, awaited)
            self._hidden = going = frozenset(ids) - kept.keys()
            if not going:
                return kept
            await self.handoff.hide(going)
            _, coming = await asyncio.gather(  # what takes longest is begun first
                self.handoff.look(), self._coming(going, old_status=monotonic() < seen_at)
            )
            if self._hidden and not coming:
                return kept | self._kept(going, ())
            self._offer_hidden()
            if monotonic() > until:
                return self._kept(ids, {device.size for device in ids})
            seen_at = await self._show_less(ids)

    def _node_seen(self) -> None:
        if self._hidden and self.publisher.node.is_open():
            self._offer_hidden()

    def _offer_hidden(self) -> None:
        """The kubelet is to give these to pods again; the scheduler is to choose them no more."""
        hidden, self._hidden = self._hidden, frozenset()
        self.table.restore(hidden)
        self.table.close(hidden)

    async def _show_less(self, ids: Collection[DeviceId]) -> float:
        """Writes the node's status, and returns from when on schedulers know it (monotonic)."""
        await self.publisher.node.write(sure={device.size for device in ids})
        return monotonic() + SCHEDULER_SECONDS

    def _kept(
        self, ids: Collection[DeviceId], awaited: Collection[SliceSize]
    ) -> dict[DeviceId, Obstacle]:
        """Those that have to stay: held by now, or needed by pods that did not arrive in time."""
        waiting = {id_: Obstacle.PODS_PENDING for id_ in ids if id_.size in awaited}
        held = [device for device in ids if device in self.table.holders]
        return {**waiting, **dict.fromkeys(held, Obstacle.SLICE_IN_USE)}

    async def _until_pods_arrive(
        self, ids: Collection[DeviceId], seen_at: float, until: float, superseded: Superseded
    ) -> tuple[frozenset[SliceSize], float]:
        """Waits for pods that are bound here, or about to be, and returns the sizes of those that
        do not arrive `until` then, and `seen_at` as it is then.

        From `seen_at` on (monotonic) the schedulers know the node's status as it is now. The
        kubelet knows the slices still and offers them again whenever it writes that status, every
        ten seconds: then it is written once more, and the schedulers get that much longer. Each
        look is a consistent read, which a reflector's copy is not.
        """
        pause = _FIRST_LOOK
        while True:
            if self.publisher.node.differs():
                seen_at = await self._show_less(ids)
            coming = await self._coming(ids, old_status=monotonic() < seen_at)
            is_open = self.publisher.node.is_open()
            if not (coming or is_open):
                return frozenset(), seen_at
            if superseded() or monotonic() > until:
                log.info("pods are on their way", extra={"pods": [pod.key for pod in coming[:5]]})
                if is_open:
                    return frozenset(device.size for device in ids), seen_at
                return frozenset(need.size for pod in coming for need in pod.needs), seen_at
            if is_open:
                continue  # it is closed again at once
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
            await self.handoff.look()

    async def _coming(self, ids: Collection[DeviceId], *, old_status: bool) -> list[PodFacts]:
        sizes = {device.size for device in ids}
        (elsewhere, since), (here, at), _ = await asyncio.gather(
            self._read_pods(_UNBOUND),
            self._read_pods(f"spec.nodeName={self.node_name}"),
            self.publisher.node.read(),
        )
        if at < since:  # a pod that was bound between the two reads is in neither
            here, _ = await self._read_pods(f"spec.nodeName={self.node_name}")
        node, now = self.node_name, self.publisher.node.server_time.now()
        behind = self.scheduler_is_behind()
        bound = [p for p in here if not (p.ended or p.admitted or self.handoff.shows(p))]
        unbound = [
            pod
            for pod in elsewhere
            if pod.on_its_way_to(node, now, old_status=old_status, behind=behind)
        ]
        return [p for p in (*bound, *unbound) if any(need.size in sizes for need in p.needs)]

    async def _read_pods(self, field_selector: str) -> tuple[list[PodFacts], int]:
        """The pods, and the list's resourceVersion."""
        found: list[PodFacts] = []
        version = 0
        # Thousands may wait in the cluster: each page is projected as it comes.
        async for page in list_pages(self.kube, PODS, query={"fieldSelector": field_selector}):
            version = version_of(page)
            found += filter(None, map(project_pod, page.get("items") or ()))
        return found, version
