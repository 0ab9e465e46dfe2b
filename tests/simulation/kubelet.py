"""A kubelet in virtual time: it gives bound pods their devices and writes what it shows of them.

It outlives its node's agents and knows of their lists what they told it last, a moment late.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import NODES, PODS, Json, PatchType
from mpslice.kube.errors import KubeError
from mpslice.kube.reflector import Change, Reflector
from mpslice.slices import SliceSize, resource_name
from nodeagent.errors import UnknownSlice
from nodeagent.hardware import GpuProcess
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet.witness import Witness
from nodeagent.slices.evidence import Claim
from nodeagent.slices.pods import PodFacts, project_pod
from nodeagent.slices.table import Listed
from tests.simulation.clock import Clock
from tests.simulation.network import Client

_SYNC: Final = 10.0  # seconds between two writes of the node's status (nodeStatusUpdateFrequency)
_MISCHANCE: Final = 0.03  # seconds from a count that goes down to such a write, at worst
_AGAIN: Final = 1.0  # seconds until a write that failed is tried again
_BINDING: Final = 10.0  # seconds from a scheduler's look at a node's status to the admission
_GRACE: Final = 1.0  # seconds that a pod takes to end when it is deleted


class Plugin(Protocol):
    """The agent's device plugin, as far as the kubelet speaks to it."""

    @property
    def service(self) -> SliceService: ...

    @property
    def witness(self) -> Witness: ...


class Kubelet:
    """Of one node. `claims` are the devices of its containers, `known` the plugin's lists.

    `problem` hears of what must not happen. `is_lost` says of a pod, by its key, whether nothing of
    ours could have kept it from a slice that is not there; it gets the time at which a GPU broke
    that is broken yet (monotonic).
    """

    def __init__(
        self,
        client: Client,
        node: str,
        clock: Clock,
        lifetime: Callable[[str], float],
        problem: Callable[[str], None],
        is_lost: Callable[[str, float], bool],
    ) -> None:
        self.claims: dict[DeviceId, Claim] = {}
        self.known: dict[SliceSize, tuple[Listed, ...]] = {}
        self.plugin: Plugin | None = None
        self.admitted: dict[str, PodFacts] = {}  # by uid
        self._client = client
        self._node = node
        self._clock = clock
        self._lifetime = lifetime
        self._problem = problem
        self._is_lost = is_lost
        self.refused = 0  # pods that got no device
        self._known_pods: set[str] = set()  # uids: its watch may be behind what it wrote
        self._broke = self._well = -math.inf  # when a GPU did so last, and until when (monotonic)
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._to_write: dict[str, tuple[PodFacts, Json | None]] = {}  # by uid; None deletes
        self._wake = asyncio.Event()
        self._sync = asyncio.Event()
        self._closed = asyncio.Event()  # a count has gone down
        self._pods: Reflector[tuple[PodFacts, bool]] = Reflector(
            client, PODS, _project, self._pod_changed, field_selector=f"spec.nodeName={node}"
        )
        self._nodes: Reflector[Json] = Reflector(
            client, NODES, _resources, self._node_changed, field_selector=f"metadata.name={node}"
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pods.run())
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._write_pods())
            tasks.create_task(self._write_node())

    # The device manager.

    def connect(self, plugin: Plugin) -> None:
        """A plugin has registered."""
        self.plugin = plugin
        self.listen()

    def disconnect(self) -> None:
        """The plugin's sockets are closed: its devices are not healthy any more."""
        self.plugin = None
        self._sync.set()

    def listen(self) -> None:
        """Takes the plugin's lists as they are now."""
        if self.plugin is None:
            return
        service = self.plugin.service
        sizes = self.known.keys() | service_sizes(service)
        self.known = {size: service.devices(size) for size in sorted(sizes)}
        listed = {device.id for devices in self.known.values() for device in devices}
        self.plugin.witness.checkpoint_written()
        for id_ in self.claims.keys() - listed:
            self._problem(f"slice {id_} is listed no more and {self.claims[id_].pod} has it")

    @property
    def registered(self) -> tuple[DeviceId, ...]:
        """What its checkpoint would say."""
        return tuple(d.id for devices in self.known.values() for d in devices if d.healthy)

    def _allocate(self, size: SliceSize) -> DeviceId:
        """Raises UnknownSlice."""
        if self.plugin is None:
            raise UnknownSlice("the plugin is away")
        free = [
            str(device.id)
            for device in self.known.get(size, ())
            if device.healthy and device.id not in self.claims
        ]
        if not free:
            raise UnknownSlice("no device is free")
        (chosen,) = self.plugin.service.prefer(free, (), 1)
        self.plugin.service.allocate([chosen])
        loop = asyncio.get_running_loop()
        loop.call_soon(self.plugin.witness.checkpoint_written)  # once it has recorded the claim
        return DeviceId.parse(chosen)

    def processes(self, gpu: GpuUuid) -> tuple[GpuProcess, ...]:
        """Of the containers that run on the GPU."""
        keys = {claim.pod for id_, claim in self.claims.items() if id_.gpu == gpu}
        return tuple(GpuProcess(1, uid) for uid, pod in self.admitted.items() if pod.key in keys)

    def _admit(self, pod: PodFacts) -> None:
        claimed = dict(self.claims)
        try:
            for need in pod.needs:
                device = self._allocate(need.size)
                self.claims[device] = Claim(device, need.container, pod=pod.key)
        except UnknownSlice as error:
            self.claims = claimed
            self._fail(pod, str(error))
            return
        self.admitted[pod.uid] = pod
        self._say(pod, "Running")
        loop, seconds = asyncio.get_running_loop(), self._lifetime(pod.key)
        self._ends[pod.uid] = loop.call_later(seconds, self._end, pod, "Succeeded")

    def excuse(self, seconds: float) -> None:
        """A GPU breaks for so long: pods that the scheduler is binding to its slices are lost."""
        self._broke = self._clock.seconds
        self._well = max(self._well, self._broke + seconds)

    def _fail(self, pod: PodFacts, why: str) -> None:
        self.refused += 1
        now = self._clock.seconds
        is_excused = (
            now <= self._broke + _BINDING
            or self._client.network.is_late
            or self._is_lost(pod.key, self._broke if now <= self._well else -math.inf)
        )
        if self.plugin is not None and not is_excused:
            self._problem(f"{pod.key} was bound to a slice that {self._node} has not got: {why}")
        self._say(pod, "Failed", reason="UnexpectedAdmissionError", message=why)

    # Pods.

    def _pod_changed(self, change: Change[tuple[PodFacts, bool]]) -> None:
        before = change.old[0] if change.old else None
        if before is not None and (change.new is None or change.new[0].uid != before.uid):
            self._forget(before)
            self._known_pods.discard(before.uid)
        if change.new is None:
            return
        pod, going = change.new
        if pod.ended:
            self._forget(pod)
        if going:
            loop = asyncio.get_running_loop()
            loop.call_later(_GRACE, self._remove, pod)
        elif not pod.ended and pod.uid not in self._known_pods:
            self._known_pods.add(pod.uid)
            self._admit(pod)

    def end_all(self) -> None:
        """Every container ends now."""
        for pod in list(self.admitted.values()):
            self._end(pod, "Succeeded")

    def _end(self, pod: PodFacts, phase: str) -> None:
        if pod.uid in self.admitted:
            self._forget(pod)
            self._say(pod, phase)

    def _remove(self, pod: PodFacts) -> None:
        self._forget(pod)
        self._to_write[pod.uid] = pod, None
        self._wake.set()

    def _forget(self, pod: PodFacts) -> None:
        """Its containers have ended; their devices are free."""
        self.admitted.pop(pod.uid, None)
        timer = self._ends.pop(pod.uid, None)
        if timer is not None:
            timer.cancel()
            self.claims = {id_: c for id_, c in self.claims.items() if c.pod != pod.key}

    def _say(self, pod: PodFacts, phase: str, **more: str) -> None:
        state = {"running": {}} if phase == "Running" else {"terminated": {"exitCode": 0}}
        containers = [{"name": need.container, "state": state} for need in pod.needs]
        status = {
            "phase": phase,
            "startTime": self._clock.stamp(),
            "containerStatuses": containers,
            **more,
        }
        self._to_write[pod.uid] = pod, status
        self._wake.set()

    async def _write_pods(self) -> NoReturn:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for uid, (pod, status) in list(self._to_write.items()):
                if await self._write_pod(pod, status) and self._to_write[uid] == (pod, status):
                    del self._to_write[uid]
            if self._to_write:
                await asyncio.sleep(_AGAIN)
                self._wake.set()

    async def _write_pod(self, pod: PodFacts, status: Json | None) -> bool:
        namespace, _, name = pod.key.partition("/")
        try:
            if status is None:
                await self._client.delete(
                    PODS, name, namespace=namespace, grace_seconds=0, uid=pod.uid
                )
            else:
                body = {"metadata": {"uid": pod.uid}, "status": status}
                await self._patch(PODS, name, body, namespace)
        except KubeError:
            return self._is_gone(pod)
        return True

    def _is_gone(self, pod: PodFacts) -> bool:
        """Whether the pod is not there any more, but at most another one of its name."""
        namespace, _, name = pod.key.partition("/")
        there = self._client.api.peek(PODS, name, namespace)
        return there is None or there["metadata"]["uid"] != pod.uid

    async def _patch(self, resource: Any, name: str, body: Json, namespace: str = "") -> None:
        await self._client.patch(
            resource,
            name,
            body,
            type=PatchType.MERGE,
            namespace=namespace or None,
            subresource="status",
        )

    # The node.

    async def _write_node(self) -> NoReturn:
        """Writes what its own copy of the node shows otherwise than the plugin offers, and nothing
        else: kubelet_node_status.go, tryUpdateNodeStatus reads the lister, and PatchNodeStatus
        sends the difference without a version. So it undoes only a count that it has seen.
        """
        while True:
            if not await _within(_SYNC, self._sync):
                # It is always due when that does most harm: just after an agent has closed a slice.
                self._closed.clear()
                if await _within(_SYNC, self._closed):
                    await asyncio.sleep(self._client.network.dice.uniform(0.0, _MISCHANCE))
            self._sync.clear()
            seen = self._nodes.objects.get(self._node)
            if seen is None or not (status := _difference(seen, self._offers())):
                continue
            try:
                await self._patch(NODES, self._node, {"status": status})
            except KubeError:
                await asyncio.sleep(_AGAIN)
                self._sync.set()

    def _node_changed(self, change: Change[Json]) -> None:
        old, new = change.old, change.new
        if (
            old
            and new
            and any(
                int(new["allocatable"].get(name, 0)) < int(count)
                for name, count in old["allocatable"].items()
            )
        ):
            self._closed.set()

    def _offers(self) -> Json:
        """Of each size what the plugin offers, nothing while it is away."""
        healthy: Counter[str] = Counter()
        capacity: Counter[str] = Counter()
        for size, devices in self.known.items():
            capacity[resource_name(size)] = len(devices)
            usable = [d for d in devices if d.healthy] if self.plugin is not None else []
            healthy[resource_name(size)] = len(usable)
        return {"capacity": _texts(capacity), "allocatable": _texts(healthy)}


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether the event comes in that time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def service_sizes(service: SliceService) -> set[SliceSize]:
    """Every size that the plugin serves."""
    return set(service._table.sizes)


def _resources(node: Json) -> Json:
    """The slices in its status, by part and name."""
    status = node.get("status") or {}
    return {
        part: {k: v for k, v in (status.get(part) or {}).items() if k.startswith("nvidia.com/")}
        for part in ("capacity", "allocatable")
    }


def _difference(seen: Json, status: Json) -> Json:
    """The parts of the status that are another than what is seen; {} for none."""
    changed = {
        part: {k: v for k, v in status[part].items() if seen[part].get(k) != v} for part in status
    }
    return {part: counts for part, counts in changed.items() if counts}


def _texts(counts: Counter[str]) -> Json:
    return {name: str(count) for name, count in counts.items()}


def _project(pod: Json) -> tuple[PodFacts, bool] | None:
    facts = project_pod(pod)
    if facts is None:
        return None
    return facts, bool(pod["metadata"].get("deletionTimestamp"))
