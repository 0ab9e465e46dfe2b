"""What the agent does with the cluster: what wakes it, what it takes over, and how it says goodbye.

One loop brings the layout about (`executor.Executor`); everything that changes wakes it, so there
is one writer and nothing to lock.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from mpslice.errors import InvalidNodeLayout
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import Kube
from mpslice.kube.errors import KubeError
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from mpslice.kube.reflector import Backoff, Change
from mpslice.nodelayout import STOPPING, SliceState
from nodeagent.cluster.publisher import Publisher
from nodeagent.cluster.report import NodeFacts, gpu_statuses, readiness
from nodeagent.cluster.view import ClusterView
from nodeagent.errors import AgentError, KubeletUnavailable, UnknownNode
from nodeagent.gpus.board import GpuBoard
from nodeagent.gpus.foreign import ForeignDevices
from nodeagent.gpus.memory import MemorySampler, PodMemory
from nodeagent.hardware import MpsHealth
from nodeagent.kubelet.knowledge import KubeletKnowledge
from nodeagent.layout.executor import Executor
from nodeagent.layout.withdrawal import Withdrawal
from nodeagent.local import LocalNode
from nodeagent.metrics import Metrics
from nodeagent.mps.news import news
from nodeagent.pulse import Pulse
from nodeagent.slices.adoption import adopt
from nodeagent.slices.holders import Holder
from nodeagent.slices.pods import PodFacts

COMPONENT: Final = "mpslice-nodeagent"
"""The source of its Events; the chart's policy lets an agent write none in another's name."""

_FAREWELL_SECONDS: Final = 3.0
_TROUBLE_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Controller:
    """`run` until cancelled, then `say_goodbye`; `serving` tells whether all is well."""

    def __init__(
        self, local: LocalNode, kube: Kube, metrics: Metrics, tasks: asyncio.TaskGroup
    ) -> None:
        self.serving = False
        self._took_over = False
        self._lost: tuple[DeviceId, ...] = ()  # on GPUs that did not show when we began
        self._local = local
        self._settings = local.settings
        self._metrics = metrics
        self._tasks = tasks
        self._wake = Pulse()
        self._events = EventRecorder(kube, COMPONENT, host=local.settings.node_name)
        self._cluster = ClusterView(
            kube,
            local.settings.node_name,
            on_layout=self._wake.beat,
            on_node=self._node_changed,
            on_pod=self._pod_changed,
        )
        local.pods = self._cluster.pods
        self._publisher = Publisher(
            kube,
            local.settings,
            local.inventory,
            local.ledger.holders,
            self._cluster.reported,
            self._cluster.shown,
        )
        knowledge = KubeletKnowledge(local.pod_resources)
        self._executor = Executor(
            settings=local.settings,
            inventory=local.inventory,
            ledger=local.ledger,
            link=local.link,
            knowledge=knowledge,
            publisher=self._publisher,
            withdrawal=Withdrawal(
                kube,
                local.settings.node_name,
                local.inventory,
                local.ledger,
                knowledge,
                self._publisher,
            ),
            mps=local.mps,
            metrics=metrics,
            tasks=tasks,
            readiness=lambda: readiness(local.inventory.gpus.values(), self._board.nos.message),
        )
        self._foreign = ForeignDevices(local.pod_resources, local.gpus.read)
        self._board = GpuBoard(
            local.gpus.read(),
            local.inventory,
            local.ledger,
            self._foreign,
            self._tell_node,
            local.settings.reserved_memory_mib,
        )
        self._memory = MemorySampler(
            local.gpus, local.inventory, local.ledger.holders, local.settings, self._tell_of_excess
        )
        self._mps: Mapping[GpuUuid, MpsHealth] = {}
        local.mps.changed.listen(self._mps_changed)
        metrics.watch_memory(lambda: self._memory.samples)
        metrics.watch_mps(local.mps.health, lambda: local.inventory.gpus)
        metrics.watch(
            lambda: gpu_statuses(local.inventory, local.ledger.holders, local.settings),
            lambda: local.link.registrations,
        )

    def not_ready(self) -> str:
        """Why the node is not served now, "" when it is."""
        return "" if self.serving else "the node's layout is not served (yet)"

    async def run(self) -> NoReturn:
        """Serves the node's layout; raises UnknownNode."""
        self._tasks.create_task(self._events.run(), name="events")
        self._cluster.follow(self._tasks)
        await self._cluster.synced()
        self._take_over()
        self._tasks.create_task(self._local.ledger.run(), name="ledger")
        self._tasks.create_task(self._foreign.run(), name="foreign devices")
        self._tasks.create_task(self._local.gpus.follow(self._board.put_gpus), name="gpus")
        if self._local.gpus.tells_memory:
            self._tasks.create_task(self._memory.run(), name="memory")
        for pulse in (
            self._local.ledger.changed,
            self._local.link.changed,
            self._local.mps.changed,
            self._board.changed,
        ):
            pulse.listen(self._wake.beat)
        for follower in (self._local.ledger.kubelet_changed, self._foreign.saw_kubelet):
            self._local.link.changed.listen(follower)
        for known in (self._local.ledger.known, self._foreign.known):
            await self._until_kubelet_has_told(known)
        self._board.put_pods(self._cluster.pods())
        self._mps_changed()
        self._board.settle()
        await self._converge_forever()

    async def _until_kubelet_has_told(self, known: Pulse) -> None:
        """Nothing may be decided before; the node is not served while the kubelet is away."""
        while not await known.within(0, _TROUBLE_SECONDS):
            message = (
                f"the kubelet does not answer on {self._settings.pod_resources_socket}; see "
                "whether it runs, and whether --pod-resources-socket is its own"
            )
            await self._executor.report_trouble(
                self._cluster.observed(), KubeletUnavailable.condition, message
            )

    def _take_over(self) -> None:
        """Adds what the NodeLayout's status says to what was found on this machine."""
        if self._cluster.node() is None:
            raise UnknownNode(
                f"the cluster has no node {self._settings.node_name}; give --node-name the name "
                "that `kubectl get nodes` prints"
            )
        reported = [entry for gpu in self._cluster.reported().gpus for entry in gpu.slices]
        used = {
            entry.id: Holder(entry.pod or "", entry.container or "")
            for entry in reported
            if entry.state is SliceState.USED
        }
        adoption = adopt(
            self._local.capacities(),
            standing=(*used, *self._local.inventory.slices),
            free=[entry.id for entry in reported],
        )
        self._local.inventory.add(adoption.adopted, bindable=True)
        self._local.ledger.remember(
            {device: used[device] for device in adoption.adopted if device in used}
        )
        self._lost = adoption.lost
        self._tell_of_lost(adoption.lost)

    def _tell_of_lost(self, lost: Sequence[DeviceId]) -> None:
        for uuid in dict.fromkeys(device.gpu for device in lost):
            gone = [str(device) for device in lost if device.gpu == uuid]
            self._tell_node(
                EventType.WARNING,
                "GPUGone",
                f"GPU {uuid} is no longer in this node; its slices are dropped: {', '.join(gone)}",
            )

    async def _converge_forever(self) -> NoReturn:
        backoff = Backoff(first=0.05, longest=_TROUBLE_SECONDS)
        while True:
            seen = self._wake.count
            again: float | None
            try:
                again = await self._converge_once()
                backoff.reset()
                self.serving = self._took_over = True
            except (KubeError, AgentError) as error:
                self.serving = False
                again = backoff.delay(getattr(error, "retry_after", None))
                log.warning(
                    "the layout could not be applied, trying again",
                    extra={
                        "node": self._settings.node_name,
                        "error": str(error),
                        "delay_seconds": round(again, 2),
                    },
                )
                if isinstance(error, AgentError):
                    await self._executor.report_trouble(
                        self._cluster.observed(), error.condition, str(error)
                    )
            if again is None:
                await self._wake.after(seen)
            else:
                await self._wake.within(seen, again)

    def _take_back(self) -> None:
        """Slices stand again whose GPU shows after all, and that somebody still holds."""
        inventory, holders = self._local.inventory, self._local.ledger.holders
        back = {device for device in self._lost if device.gpu in inventory.gpus}
        if back:
            self._lost = tuple(device for device in self._lost if device not in back)
            inventory.add((device for device in back if device in holders), bindable=True)

    async def _converge_once(self) -> float | None:
        again = None
        self._take_back()
        try:
            again = await self._executor.converge(self._cluster.wanted)
        except InvalidNodeLayout as error:
            observed = self._cluster.observed()
            if observed is not None:
                await self._executor.report_invalid(observed.layout, str(error))
        if self._board.nos.message:
            await self._local.link.leave(self._local.inventory.forget_empty_sizes())
        return again

    async def say_goodbye(self) -> None:
        """Nothing more is bound to a node whose plugin is away."""
        self.serving = False
        if not self._took_over:
            return  # what the node shows is more than we know of
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._publisher.close_node(self._cluster.pods())
                message = "the agent is being stopped; running containers go on"
                await self._executor.report_trouble(self._cluster.observed(), STOPPING, message)
        except (KubeError, TimeoutError) as error:
            log.warning("the node could not be closed", extra={"error": str(error)})

    def _node_changed(self, node: NodeFacts) -> None:
        self._publisher.saw_node(node)
        self._foreign.saw_node(node.others)
        self._board.put_excluded(node.excluded)
        if self._publisher.node_differs():
            self._wake.beat()

    def _pod_changed(self, change: Change[PodFacts]) -> None:
        self._local.ledger.pods_changed()
        if self._local.ledger.known.count:
            self._board.put_pods(self._cluster.pods())
        pod, before = change.new, change.old
        if pod is None or not pod.refusal or (before is not None and before.refusal):
            return
        if self._cluster.is_synced:
            self._metrics.refused()
            self._events.record(
                _reference_to(pod.key, pod.uid),
                EventType.WARNING,
                "SliceRefused",
                f"the kubelet of {pod.node} refused the pod ({pod.refusal}); it has to be "
                "created anew",
            )

    def _mps_changed(self) -> None:
        before, self._mps = self._mps, self._local.mps.health()
        self._board.put_mps(self._mps)
        for entry in news(before, self._mps):
            for device, holder in self._local.ledger.holders.items():
                if device.gpu == entry.gpu and holder.pod:
                    about = _reference_to(holder.pod, holder.uid)
                    self._events.record(about, EventType.WARNING, entry.reason, entry.message)

    def _tell_of_excess(self, memory: PodMemory) -> None:
        about = _reference_to(memory.pod, memory.uid)
        self._events.record(about, EventType.WARNING, "SliceMemoryExceeded", memory.message)

    def _tell_node(self, type: EventType, reason: str, message: str) -> None:
        name = self._settings.node_name
        # The kubelet's own Events on a Node carry its name as uid, and so kubectl finds them.
        self._events.record(ObjectRef("v1", "Node", name, uid=name), type, reason, message)


def _reference_to(pod: str, uid: str) -> ObjectRef:
    namespace, _, name = pod.partition("/")
    return ObjectRef("v1", "Pod", name, namespace=namespace, uid=uid)
