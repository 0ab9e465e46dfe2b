"""The agent as a whole: what wakes it, what it takes over at its start, and how it ends.

The order of the start is the order of urgency: first the kubelet hears of every slice that this
machine knows of, because pods that it admits before are lost; then the API server is asked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Final, NoReturn, Protocol

from mpslice.errors import InvalidNodeLayout
from mpslice.gpus import DeviceId, GpuUuid, capacity_gb
from mpslice.kube.api import Kube
from mpslice.kube.errors import KubeError
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from mpslice.kube.reflector import Backoff, Change
from mpslice.nodelayout import GpuStatus, SliceState
from nodeagent.adoption import adopt
from nodeagent.checkpoint import read_checkpoint
from nodeagent.cluster import ClusterView
from nodeagent.errors import KubeletUnavailable, UnknownNode
from nodeagent.executor import Executor
from nodeagent.hardware import Gpu, Gpus, MpsControl
from nodeagent.holders import Holder, Pods
from nodeagent.inventory import Inventory
from nodeagent.knowledge import KubeletKnowledge
from nodeagent.kubelet import KubeletLink, remove_left_sockets
from nodeagent.ledger import Ledger
from nodeagent.metrics import Metrics
from nodeagent.ops import ops_server
from nodeagent.podresources import PodResources
from nodeagent.pods import PodFacts
from nodeagent.publisher import Publisher
from nodeagent.pulse import Pulse
from nodeagent.report import NodeFacts, gpu_statuses
from nodeagent.service import SliceService
from nodeagent.settings import Settings
from nodeagent.withdrawal import Withdrawal

COMPONENT: Final = "nodeagent"

_EARLY_SECONDS: Final = 1.0  # what the first registrations may delay the API server's turn
_FAREWELL_SECONDS: Final = 3.0
_TROUBLE_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class ClosableKube(Kube, Protocol):
    """A `Kube` that is closed at the end."""

    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[ClosableKube]]


class _Stopped(Exception):
    """Ends the task group once everything is done."""


class Agent:
    """One run of the agent; `stop` ends it in order."""

    def __init__(self, settings: Settings, gpus: Gpus, mps: MpsControl) -> None:
        self.stop = asyncio.Event()
        self.metrics = Metrics(settings.node_name)
        self.inventory = Inventory(gpus.read())
        self.pod_resources = PodResources(settings.pod_resources_socket)
        self.ledger = Ledger(self.pod_resources, settings.checkpoint, self._pods)
        self._settings = settings
        self._gpus = gpus
        self._service = SliceService(settings, self.inventory, self.ledger, mps)
        self._link = KubeletLink(settings.kubelet_socket, self._service)
        self._wake = Pulse()
        self._cluster: ClusterView | None = None
        self._events: EventRecorder | None = None
        self._executor: Executor | None = None
        self._serving = False

    async def run(self, connect: Connect) -> None:
        """Runs until `stop` is set; raises AgentError for what only a person can mend."""
        await asyncio.to_thread(remove_left_sockets, self._settings.device_plugin_dir)
        self.metrics.watch(self._statuses, lambda: self._link.registrations)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._link)
            stack.push_async_callback(self.pod_resources.close)
            address = self._settings.ops_listen
            await stack.enter_async_context(
                ops_server(address, lambda: self._serving, self.metrics.text)
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._live(connect, tasks)
                    raise _Stopped
            except* _Stopped:
                log.info("stopped", extra={"node": self._settings.node_name})

    async def _live(self, connect: Connect, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self._link.follow(self.ledger.checkpoint_written), name="kubelet")
        await self._serve_early(tasks)
        kube = await connect()
        try:
            work = tasks.create_task(self._work(kube, tasks), name="work")
            await self.stop.wait()
            work.cancel()
            await asyncio.wait((work,))
            await self._say_goodbye()
        finally:
            await kube.close()

    async def _serve_early(self, tasks: asyncio.TaskGroup) -> None:
        """Registers what the kubelet's own file names, before anything slow.

        The held slices among them are not known from the others yet, so all of them are served.
        """
        checkpoint = await asyncio.to_thread(read_checkpoint, self._settings.checkpoint)
        claimed = (claim.id for claim in checkpoint.claims)
        early = adopt(self._capacities(), checkpoint.registered, claimed)
        self.inventory.add(early.adopted, bindable=True)
        self._link.serve(self.inventory.sizes, tasks)
        try:
            await self._link.until_live(self.inventory.sizes, _EARLY_SECONDS)
        except KubeletUnavailable as error:
            log.info("the kubelet is away", extra={"error": str(error)})

    async def _work(self, kube: Kube, tasks: asyncio.TaskGroup) -> NoReturn:
        self._events = EventRecorder(kube, COMPONENT, host=self._settings.node_name)
        tasks.create_task(self._events.run(), name="events")
        self._cluster = ClusterView(
            kube,
            self._settings.node_name,
            on_layout=self._wake.beat,
            on_node=self._node_changed,
            on_pod=self._pod_changed,
        )
        self._executor = executor = self._make_executor(kube, tasks)
        self._cluster.follow(tasks)
        await self._cluster.synced()
        self._take_over(self._cluster)
        tasks.create_task(self.ledger.run(), name="ledger")
        tasks.create_task(self._gpus.follow(self._gpus_changed), name="gpus")
        for pulse in (self.ledger.changed, self._link.changed):
            pulse.listen(self._wake.beat)
        await self.ledger.known.wait()
        await self._converge_forever(executor, self._cluster)

    def _make_executor(self, kube: Kube, tasks: asyncio.TaskGroup) -> Executor:
        knowledge = KubeletKnowledge(self.pod_resources)
        publisher = Publisher(kube, self._settings, self.inventory, self.ledger.holders)
        return Executor(
            settings=self._settings,
            inventory=self.inventory,
            ledger=self.ledger,
            link=self._link,
            knowledge=knowledge,
            publisher=publisher,
            withdrawal=Withdrawal(
                kube, self._settings.node_name, self.inventory, self.ledger, knowledge, publisher
            ),
            metrics=self.metrics,
            tasks=tasks,
        )

    def _take_over(self, cluster: ClusterView) -> None:
        """Adds what the NodeLayout's status says to what was found on this machine."""
        if cluster.node() is None:
            raise UnknownNode(
                f"the cluster has no node {self._settings.node_name}; give --node-name the name "
                "that `kubectl get nodes` prints"
            )
        observed = cluster.observed()
        status = observed.layout.status if observed else None
        reported = [entry for gpu in status.gpus for entry in gpu.slices] if status else []
        used = {
            entry.id: Holder(entry.pod or "", entry.container or "")
            for entry in reported
            if entry.state is SliceState.USED
        }
        adoption = adopt(
            self._capacities(),
            standing=(*used, *self.inventory.slices),
            free=[entry.id for entry in reported],
        )
        self.inventory.add(adoption.adopted, bindable=True)
        self.ledger.remember(
            {device: used[device] for device in adoption.adopted if device in used}
        )
        self._tell_of_lost(adoption.lost)

    def _tell_of_lost(self, lost: Sequence[DeviceId]) -> None:
        for uuid in dict.fromkeys(device.gpu for device in lost):
            gone = [str(device) for device in lost if device.gpu == uuid]
            self._tell_node(
                EventType.WARNING,
                "GPUGone",
                f"GPU {uuid} is no longer in this node; its slices are dropped: {', '.join(gone)}",
            )

    async def _converge_forever(self, executor: Executor, cluster: ClusterView) -> NoReturn:
        backoff = Backoff(first=0.05, longest=_TROUBLE_SECONDS)
        while True:
            seen = self._wake.count
            started = perf_counter()
            again: float | None
            try:
                again = await self._converge_once(executor, cluster)
                backoff.reset()
                self._serving = True
                self.metrics.applied(perf_counter() - started)
            except (KubeError, KubeletUnavailable) as error:
                self._serving = False
                again = backoff.delay(getattr(error, "retry_after", None))
                log.warning(
                    "the layout could not be applied, trying again",
                    extra={
                        "node": self._settings.node_name,
                        "error": str(error),
                        "delay_seconds": round(again, 2),
                    },
                )
                if isinstance(error, KubeletUnavailable):
                    await executor.report_trouble(
                        cluster.observed(), "KubeletUnavailable", str(error)
                    )
            if again is None:
                await self._wake.after(seen)
            else:
                await self._wake.within(seen, again)

    async def _converge_once(self, executor: Executor, cluster: ClusterView) -> float | None:
        try:
            return await executor.converge(cluster.wanted)
        except InvalidNodeLayout as error:
            observed = cluster.observed()
            if observed is not None:
                await executor.report_invalid(observed.layout, str(error))
            return None

    async def _say_goodbye(self) -> None:
        """Nothing more is bound to a node whose plugin is away."""
        self._serving = False
        executor, cluster = self._executor, self._cluster
        if executor is None or cluster is None or not cluster.is_synced:
            return
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await executor.publisher.close_node()
                message = "the agent is being stopped; running containers go on"
                await executor.report_trouble(cluster.observed(), "Stopping", message)
        except (KubeError, TimeoutError) as error:
            log.warning("the node could not be closed", extra={"error": str(error)})

    # What others call back.

    def _pods(self) -> Pods:
        return self._cluster.pods() if self._cluster else Pods()

    def _statuses(self) -> tuple[GpuStatus, ...]:
        return gpu_statuses(self.inventory, self.ledger.holders, self._settings)

    def _capacities(self) -> dict[GpuUuid, int]:
        unit = self._settings.memory_unit
        return {gpu.uuid: capacity_gb(gpu.memory_mib, unit) for gpu in self._gpus.read()}

    def _node_changed(self, node: NodeFacts) -> None:
        if self._executor is not None:
            self._executor.publisher.saw_node(node)
            if self._executor.publisher.node_differs():
                self._wake.beat()

    def _pod_changed(self, change: Change[PodFacts]) -> None:
        self.ledger.pods_changed()
        pod, before = change.new, change.old
        if pod is None or not pod.refusal or (before is not None and before.refusal):
            return
        if self._cluster is not None and self._cluster.is_synced and self._events is not None:
            self.metrics.refused()
            self._events.record(
                _pod_reference(pod),
                EventType.WARNING,
                "SliceRefused",
                f"the kubelet of {pod.node} refused the pod ({pod.refusal}); it has to be "
                "created anew",
            )

    def _gpus_changed(self, gpus: Sequence[Gpu]) -> None:
        before = dict(self.inventory.gpus)
        self.inventory.put_gpus(gpus)
        self._wake.beat()
        for gpu in gpus:
            was = before.get(gpu.uuid)
            if was is None or was.reason == gpu.reason:
                continue
            log.warning("a GPU's health changed", extra={"gpu": gpu.uuid, "reason": gpu.reason})
            if gpu.reason:
                text = f"GPU {gpu.index} ({gpu.uuid}) is unhealthy: {gpu.reason}"
                self._tell_node(EventType.WARNING, "GPUUnhealthy", text)
            else:
                text = f"GPU {gpu.index} ({gpu.uuid}) is healthy again"
                self._tell_node(EventType.NORMAL, "GPUHealthy", text)

    def _tell_node(self, type: EventType, reason: str, message: str) -> None:
        name = self._settings.node_name
        if self._events is not None:
            # The kubelet's own Events on a Node carry its name as uid, and so kubectl finds them.
            about = ObjectRef("v1", "Node", name, uid=name)
            self._events.record(about, type, reason, message)


def _pod_reference(pod: PodFacts) -> ObjectRef:
    namespace, _, name = pod.key.partition("/")
    return ObjectRef("v1", "Pod", name, namespace=namespace, uid=pod.uid)
