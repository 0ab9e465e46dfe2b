"""A node's kubelet beside the real node agent: its device manager, and what it shows of the node.

The agent's plugin is spoken to over real sockets (`tests.nodeagent.fake_kubelet`); what a kubelet
does with pods is `benchmarks.cluster.kubelets.Kubelets`. It outlives its agents.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, NoReturn

import grpc

from mpslice.gpus import DeviceId
from mpslice.kube.api import NODES, Json, Kube, PatchType
from mpslice.kube.errors import KubeError
from mpslice.slices import resource_name
from nodeagent.slices.pods import Need, PodFacts
from tests.nodeagent.fake_kubelet import AdmissionError, FakeKubelet

_SYNC: Final = 10.0  # seconds between two looks at the node's status (nodeStatusUpdateFrequency)
_STATUS: Final = 0.5  # seconds in which a scheduler acts on a status that the kubelet writes
_AGAIN: Final = 0.2  # seconds until a container's start is tried again


class Kubelet:
    """`capacities` are the gb of the node's GPUs by UUID. `problem` hears of what must not be."""

    def __init__(
        self,
        node: str,
        fake: FakeKubelet,
        capacities: dict[str, int],
        kube: Kube,
        problem: Callable[[str], None],
    ) -> None:
        self.excused = 0  # admissions that failed, with a reason
        self.away = 0  # faults by which nobody serves the plugin
        self._node, self._fake, self._kube = node, fake, kube
        self._capacities = capacities
        self._problem = problem
        self._one_at_a_time = asyncio.Lock()
        self._excused_until = 0.0
        fake.on_list = self._listed

    @property
    def claims(self) -> dict[DeviceId, str]:
        """The pods, by key, that have a device."""
        return {DeviceId.parse(id_): each.pod for each in self._fake.admitted for id_ in each.ids}

    def forget_calls(self) -> None:
        """What it has noted for tests that look at single calls."""
        for notes in (self._fake.lists, self._fake.calls, self._fake.registrations):
            notes.clear()

    def offered(self) -> frozenset[DeviceId]:
        """The slices that the plugin lists as healthy, those of pods among them.

        What a plugin that has ended listed is unhealthy, though it counts for minutes still.
        """
        healthy = (id_ for resource in self._fake.devices for id_ in self._fake.healthy(resource))
        return frozenset(map(DeviceId.parse, healthy))

    def hidden(self) -> frozenset[DeviceId]:
        """The slices that the plugin lists as unhealthy."""
        served = (self._fake.devices.get(resource, {}) for resource in self._fake.served())
        listed = frozenset(DeviceId.parse(id_) for ids in served for id_ in ids)
        return listed - self.offered()

    def excuse(self, seconds: float) -> None:
        """For so long a pod may be refused: what serves it was taken away."""
        self._excused_until = max(self._excused_until, time.monotonic() + seconds)

    # The device manager: benchmarks.cluster.kubelets.Devices.

    async def admit(self, pod: PodFacts) -> bool:
        """One pod at a time, as kubelets do."""
        async with self._one_at_a_time:
            for need in pod.needs:
                why = await self._give(pod, need)
                if why:
                    self._fake.forget(pod.key)
                    self._refused(pod, why)
                    return False
        self._check_room("containers have", self.claims)
        return True

    def end(self, key: str) -> None:
        self._fake.forget(key)
        self._fake.checkpoint()

    async def _give(self, pod: PodFacts, need: Need) -> str:
        """Why the container gets no device, "" when it has one and may start."""
        resource = resource_name(need.size)
        try:
            await self._fake.admit(pod.key, resource, uid=pod.uid, container=need.container)
        except (AdmissionError, KeyError, grpc.aio.AioRpcError) as error:
            has = [
                each
                for each in self._fake.admitted
                if (each.uid, each.container) == (pod.uid, need.container)
            ]
            if not has:
                return str(error) or type(error).__name__
            await self._start(has[0].resource, has[0].ids)
        return ""

    async def _start(self, resource: str, ids: list[str]) -> None:
        """A container whose start fails is started again."""
        while True:
            try:
                await self._fake.start_container(resource, *ids)
            except (AdmissionError, KeyError, grpc.aio.AioRpcError):
                await asyncio.sleep(_AGAIN)
            else:
                return

    def _refused(self, pod: PodFacts, why: str) -> None:
        if self.away or time.monotonic() < self._excused_until:
            self.excused += 1
        else:
            self._problem(f"{pod.key} was bound to a slice that {self._node} has not got: {why}")

    def _listed(self, resource: str) -> None:
        """The plugin has sent a list of the size."""
        listed = self._fake.devices[resource]
        for id_, pod in self.claims.items():
            if resource_name(id_.size) == resource and str(id_) not in listed:
                self._problem(f"slice {id_} is listed no more and {pod} has it")
        if self._fake.panics:
            self._problem(f"the kubelet would crash: {self._fake.panics[0]}")
        # Of what it has hidden and is about to withdraw, a kubelet gives nothing any more.
        healthy = (id_ for size in self._fake.devices for id_ in self._fake.healthy(size))
        usable = {DeviceId.parse(id_) for id_ in healthy} | set(self.claims)
        self._check_room("containers can have", usable)

    def _check_room(self, who: str, ids: Collection[DeviceId]) -> None:
        for gpu, capacity in self._capacities.items():
            held = sum(id_.size for id_ in ids if id_.gpu == gpu)
            if held > capacity:
                self._problem(f"{gpu} has {capacity} gb and {who} {held}: {ids}")

    # The node's status.

    async def run(self) -> NoReturn:
        """Shows of each size what the plugin offers, nothing while it is away."""
        while True:
            try:
                await self.show()
            except KubeError:
                pass  # it is tried again like this
            await asyncio.sleep(_SYNC)

    async def show(self) -> None:
        """Raises a KubeError."""
        capacity, allocatable = self._fake.count()
        status = {"capacity": _texts(capacity), "allocatable": _texts(allocatable)}
        shown = (await self._kube.read(NODES, self._node)).get("status") or {}
        if any(not status[part].items() <= shown.get(part, {}).items() for part in status):
            body = {"status": status}
            # A withdrawal may be about to hide what this offers again (docs/design/agent.md).
            self.excuse(_STATUS)
            await self._kube.patch(
                NODES, self._node, body, type=PatchType.MERGE, subresource="status"
            )


def _texts(counts: Counter[str]) -> Json:
    return {name: str(count) for name, count in counts.items()}
