"""What the agent does with the cluster: what wakes it, what it takes over, and how it says goodbye.

One loop brings the layout about (`executor.Executor`); everything that changes wakes it, so there
is one writer and nothing to lock.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from mpslice.errors import InvalidNodeLayout
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import Kube
from mpslice.kube.errors import KubeError, is_refusal
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from mpslice.kube.reflector import Backoff, Change
from mpslice.nodelayout import STOPPING, SliceState
from nodeagent.cluster.publisher import Publisher
from nodeagent.cluster.quota import until_nobody_asks_for_gb
from nodeagent.cluster.report import NodeFacts, by_index, gpu_statuses, readiness
from nodeagent.cluster.view import ClusterView
from nodeagent.errors import AgentError, KubeletUnavailable, UnknownNode
from nodeagent.gpus.board import GpuBoard
from nodeagent.gpus.foreign import ForeignDevices
from nodeagent.gpus.memory import MemorySampler, PodMemory
from nodeagent.hardware import MpsHealth
from nodeagent.layout.executor import Executor
from nodeagent.layout.withdrawal import Withdrawal
from nodeagent.local import LocalNode
from nodeagent.metrics import Metrics
from nodeagent.mps.news import news
from nodeagent.pulse import Pulse
from nodeagent.slices.adoption import adopt
from nodeagent.slices.evidence import Holder
from nodeagent.slices.pods import PodFacts
from nodeagent.verdicts import Verdicts

COMPONENT: Final = "mpslice-nodeagent"
"""The source of its Events; the chart's policy lets an agent write none in another's name."""

_FAREWELL_SECONDS: Final = 3.0
_ARRIVAL_SECONDS: Final = 1.0  # of these at most for pods that the scheduler is binding
_TROUBLE_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Controller:
    """`run` until cancelled, then `say_goodbye`; `serving` tells whether all is well."""

    def __init__(
        self, local: LocalNode, kube: Kube, metrics: Metrics, tasks: asyncio.TaskGroup
    ) -> None:
        self.serving = False
        self._took_over = False
        self._kube = kube
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
        self._table, self._handoff = local.table, local.handoff
        local.table.pods = self._cluster.pods
        self._publisher = Publisher(
            kube,
            local.settings,
            local.table,
            self._cluster.reported,
            self._cluster.shown,
        )
        self._verdicts = Verdicts(local.settings.mps_root, self._wake.beat)
        self._executor = Executor(
            settings=local.settings,
            table=local.table,
            handoff=local.handoff,
            enforcer=local.enforcer,
            publisher=self._publisher,
            withdrawal=Withdrawal(
                kube,
                local.settings.node_name,
                local.table,
                local.handoff,
                self._publisher,
                self._cluster.scheduler_is_behind,
            ),
            metrics=metrics,
            readiness=lambda: readiness(local.table.gpus.values(), self._board.nos.message),
            verified=lambda: self._verdicts.condition(by_index(local.table)),
        )
        self._foreign = ForeignDevices(local.handoff.pod_resources, local.gpus.read)
        self._board = GpuBoard(
            local.gpus.read(),
            self._foreign,
            local.table.put_gpus,
            self._tell_node,
            local.settings.reserved_memory_mib,
        )
        self._memory = MemorySampler(
            local.gpus, local.table.gpus, local.table.holders, local.settings, self._tell_of_excess
        )
        self._mps: Mapping[GpuUuid, MpsHealth] = {}
        local.enforcer.changed.listen(self._mps_changed)
        metrics.watch_memory(lambda: self._memory.samples)
        metrics.watch_mps(local.enforcer.health, lambda: local.table.gpus)
        metrics.watch(
            lambda: gpu_statuses(local.table, local.settings),
            lambda: local.handoff.link.registrations,
        )

    def not_ready(self) -> str:
        """Why the node is not served now, "" when it is."""
        return "" if self.serving else "the node's layout is not served (yet)"

    async def run(self) -> NoReturn:
        """Serves the node's layout; raises UnknownNode."""
        self._tasks.create_task(self._events.run(), name="events")
        # The kubelet is told of a GPU that falls ill or is well again also without an API server.
        self._tasks.create_task(self._local.gpus.follow(self._board.put_gpus), name="gpus")
        self._cluster.follow(self._tasks)
        await self._cluster.synced()
        await self._take_over()
        await self._handoff.tidy()
        self._handoff.serve(self._tasks)
        if self._publisher.node.facts.gb is not None and not self._settings.quota:
            self._tasks.create_task(self._end_offer_of_gb(), name="end of the offer of gb")
        self._tasks.create_task(self._foreign.run(), name="foreign devices")
        self._tasks.create_task(self._verdicts.follow(), name="verdicts")
        if self._local.gpus.tells_memory:
            self._tasks.create_task(self._memory.run(), name="memory")
        for pulse in (
            self._table.held,
            self._handoff.changed,
            self._local.enforcer.changed,
            self._board.changed,
        ):
            pulse.listen(self._wake.beat)
        self._handoff.link.reconnected.listen(self._foreign.saw_kubelet)
        for known in (self._handoff.witness.known, self._foreign.known):
            await self._until_kubelet_has_told(known)
        self._judge_pods()
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

    async def _take_over(self) -> None:
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
            standing=(*used, *self._table.slices),
            free=[entry.id for entry in reported],
        )
        await self._handoff.adopt(adoption.adopted)
        self._table.miss(adoption.lost)
        found = {*adoption.adopted, *adoption.lost}
        self._table.remember({device: used[device] for device in found if device in used})
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
                if isinstance(error, KubeError) and not is_refusal(error):
                    self._cluster.unanswered()
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

    async def _end_offer_of_gb(self) -> None:
        await until_nobody_asks_for_gb(self._kube)
        self._publisher.node.offers_gb = False
        self._wake.beat()

    async def _converge_once(self) -> float | None:
        again = None
        try:
            again = await self._executor.converge(self._cluster.wanted)
        except InvalidNodeLayout as error:
            observed = self._cluster.observed()
            if observed is not None:
                await self._executor.report_invalid(observed.layout, str(error))
        if self._board.nos.message:
            await self._handoff.leave()
        return again

    async def say_goodbye(self) -> None:
        """Nothing more is bound to a node whose plugin is away."""
        self.serving = False
        if not self._took_over:
            return  # what the node shows is more than we know of
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._publisher.node.close(self._cluster.pods())
                message = "the agent is being stopped; running containers go on"
                await self._executor.report_trouble(self._cluster.observed(), STOPPING, message)
                with suppress(KubeError):
                    await self._executor.withdrawal.until_nobody_comes(_ARRIVAL_SECONDS)
                with suppress(
                    KubeletUnavailable
                ):  # one that does not answer may write all the same
                    await self._handoff.end()
                await self._publisher.node.keep_closed(self._cluster.pods())
        except (KubeError, TimeoutError) as error:
            log.warning("the node could not be closed", extra={"error": str(error)})

    def _node_changed(self, node: NodeFacts) -> None:
        self._publisher.node.saw(node)
        self._foreign.saw_node(node.others)
        self._board.put_excluded(node.excluded)
        if self._publisher.node.differs():
            self._wake.beat()

    def _pod_changed(self, change: Change[PodFacts]) -> None:
        self._handoff.witness.pods_changed()
        if self._handoff.witness.known.count:
            self._judge_pods()
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

    def _judge_pods(self) -> None:
        ours = {h.uid for device, h in self._table.holders.items() if device in self._table}
        self._board.put_pods(self._cluster.pods(), ours, self._table.reading.foreign)

    def _mps_changed(self) -> None:
        before, self._mps = self._mps, self._local.enforcer.health()
        self._board.put_mps(self._mps)
        for entry in news(before, self._mps):
            for device, holder in self._table.holders.items():
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
