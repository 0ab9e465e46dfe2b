"""What stands in for kubelet and MPS on a node that is no machine: all that is not real here.

The kubelet's part is played for all nodes by one watch of pods: it gives a bound pod its devices,
says that it runs, and that it has ended. Its requests are not mpslice's, and are counted apart.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from mpslice.gpus import DeviceId, GpuUuid, MemoryUnit
from mpslice.kube.api import PODS, Json, Kube, PatchType
from mpslice.kube.errors import Conflict, KubeError, NotFound
from mpslice.kube.reflector import Backoff, Change, Reflector
from nodeagent.hardware import GpuProcess, GpusChanged
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet.witness import Witness
from nodeagent.pulse import Pulse
from nodeagent.seams import Enforcer
from nodeagent.simulation import SimulatedGpus, parse_simulation
from nodeagent.slices.evidence import Claim
from nodeagent.slices.pods import PodFacts, project_pod
from nodeagent.slices.table import SliceTable

LIFETIME: Final = "benchmark.mpslice.io/lifetime"
"""The annotation that says after how many seconds the pod's containers end."""

_LONGEST_PAUSE: Final = 2.0  # seconds between two attempts to write a status


class NodeGpus(SimulatedGpus):
    """The GPUs of one node: all of one model, and they never change."""

    def __init__(self, node: str, count: int, memory_mib: int) -> None:
        self.changed = Pulse()
        entries = [
            {"uuid": f"GPU-{node}-{n}", "product": "NVIDIA A100-SXM4-80GB", "memoryMiB": memory_mib}
            for n in range(count)
        ]
        self._gpus = parse_simulation({"gpus": entries})

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:  # noqa: ARG002
        return ()

    async def follow(self, on_change: GpusChanged) -> NoReturn:
        on_change(self._gpus)
        while True:
            await self.changed.after(self.changed.count)


@dataclass(slots=True)
class _Link:
    """What the agent asks of its link to the kubelet."""

    registrations: int = 0
    reconnected: Pulse = field(default_factory=Pulse)

    async def stop(self) -> None: ...


@dataclass(slots=True)
class KubeletHandoff:
    """The hand-off of one node: `nodeagent.kubelet.handoff.DevicePlugin` without a kubelet.

    A list is known as soon as it is offered. `claims` is what PodResources would list.
    """

    table: SliceTable
    enforcer: Enforcer
    claims: dict[DeviceId, Claim] = field(default_factory=dict)
    changed: Pulse = field(default_factory=Pulse)
    link: _Link = field(default_factory=_Link)
    witness: Witness = field(init=False)
    service: SliceService = field(init=False)

    def __post_init__(self) -> None:
        self.witness = Witness(self.table, self, Path("/dev/null/no-checkpoint"))
        self.service = SliceService(self.table, self.witness, self.enforcer, None, MemoryUnit.GB)

    @property
    def pod_resources(self) -> "KubeletHandoff":
        return self

    async def list(self) -> tuple[Claim, ...]:
        return tuple(self.claims.values())

    async def others(self) -> dict[str, frozenset[str]]:
        return {}

    async def adopt(self, ids: Sequence[DeviceId]) -> None:
        self.table.adopt(ids)

    def serve(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self.witness.run(), name="holders")

    async def tidy(self) -> None: ...

    async def offer(self, new: Sequence[DeviceId] = (), *, sure: bool = False) -> None:  # noqa: ARG002
        self.table.carve(new)
        self.table.confirm(filter(self.table.is_offered, self.table.slices))

    async def hide(self, ids: frozenset[DeviceId]) -> None:
        self.table.retire(ids)

    def forget(self, ids: Iterable[DeviceId]) -> None: ...

    def expect(self, coming: Collection[DeviceId]) -> None: ...

    async def look(self) -> None:
        await self.witness.look()

    def shows(self, pod: PodFacts) -> bool:
        return self.table.reading.shows(pod)

    async def leave(self) -> None: ...

    # What the kubelet does.

    async def admit(self, pod: PodFacts) -> bool:
        """See `Devices`; as the plugin prefers."""
        for need in pod.needs:
            available = [
                str(device.id)
                for device in self.service.devices(need.size)
                if device.healthy and device.id not in self.claims
            ]
            if not available:
                return False
            (chosen,) = self.service.prefer(available, (), 1)
            self.service.allocate([chosen])
            device = DeviceId.parse(chosen)
            self.claims[device] = Claim(device, need.container, pod=pod.key)
        return True

    def end(self, key: str) -> None:
        """See `Devices`."""
        for device in [id_ for id_, claim in self.claims.items() if claim.pod == key]:
            del self.claims[device]


class Devices(Protocol):
    """The device manager of one node's kubelet."""

    async def admit(self, pod: PodFacts) -> bool:
        """Gives the pod's containers their devices; False when the node has not got them."""

    def end(self, key: str) -> None:
        """The pod's containers have ended; their devices are free."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """A pod that is bound to a node, as far as its kubelet minds."""

    facts: PodFacts
    lifetime: float | None
    deleting: bool

    @property
    def live(self) -> bool:
        return not self.facts.ended


class Kubelets:
    """The kubelets of all nodes. `refused` are pods that got no device, which must not happen."""

    def __init__(self, kube: Kube, nodes: Mapping[str, Devices]) -> None:
        self.refused: list[str] = []
        self._kube = kube
        self._nodes = nodes
        self._admitted: dict[str, asyncio.TimerHandle | None] = {}  # by uid
        self._writes: set[asyncio.Task[None]] = set()
        self._said: dict[str, str] = {}  # the phase, by uid
        self._turns: dict[str, asyncio.Lock] = {}  # a pod's writes follow one another
        self._pods: Reflector[_Bound] = Reflector(
            kube, PODS, _project, self._changed, field_selector="spec.nodeName!="
        )

    async def run(self) -> NoReturn:
        try:
            await self._pods.run()
        finally:
            for timer in self._admitted.values():
                if timer is not None:
                    timer.cancel()

    def _changed(self, change: Change[_Bound]) -> None:
        pod, before = change.new, change.old
        if before is not None and (pod is None or pod.facts.uid != before.facts.uid):
            self._forget(before.facts)
            self._said.pop(before.facts.uid, None)
            self._turns.pop(before.facts.uid, None)
        if pod is None or pod.facts.node not in self._nodes:
            return
        if not pod.live:
            self._forget(pod.facts)
        elif pod.deleting:
            self._forget(pod.facts)
            self._do(self._remove(pod.facts))
        elif pod.facts.uid not in self._admitted:
            self._admitted[pod.facts.uid] = None
            self._do(self._admit(pod))

    async def _admit(self, pod: _Bound) -> None:
        facts = pod.facts
        devices = self._nodes[facts.node]
        if not await devices.admit(facts):
            self.refused.append(facts.key)
            await self._say(facts, "Failed", reason="UnexpectedAdmissionError")
            return
        if facts.uid not in self._admitted:  # it has gone meanwhile
            devices.end(facts.key)
            return
        self._do(self._say(facts, "Running"))
        if pod.lifetime is not None:
            loop = asyncio.get_running_loop()
            self._admitted[facts.uid] = loop.call_later(pod.lifetime, self._end, facts)

    def _end(self, facts: PodFacts) -> None:
        self._nodes[facts.node].end(facts.key)
        self._do(self._say(facts, "Succeeded"))

    def _forget(self, facts: PodFacts) -> None:
        timer = self._admitted.pop(facts.uid, None)
        if timer is not None:
            timer.cancel()
        if facts.node in self._nodes:
            self._nodes[facts.node].end(facts.key)

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _say(self, facts: PodFacts, phase: str, **more: str) -> None:
        running = {"running": {}} if phase == "Running" else {"terminated": {"exitCode": 0}}
        names = [need.container for need in facts.needs]
        status: Json = {
            "phase": phase,
            "startTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "containerStatuses": [
                {"name": name, "state": running, "image": "", "imageID": "", "ready": False,
                 "restartCount": 0}
                for name in names
            ],
            **more,
        }  # fmt: skip
        body = {"metadata": {"uid": facts.uid}, "status": status}
        self._said[facts.uid] = phase
        async with self._turns.setdefault(facts.uid, asyncio.Lock()):
            if self._said.get(facts.uid) == phase:  # else there is something newer to say
                await self._until_done(
                    facts,
                    lambda namespace, name: self._kube.patch(
                        PODS,
                        name,
                        body,
                        type=PatchType.MERGE,
                        namespace=namespace,
                        subresource="status",
                    ),
                )

    async def _remove(self, facts: PodFacts) -> None:
        await self._say(facts, "Succeeded")
        await self._until_done(
            facts,
            lambda namespace, name: self._kube.delete(
                PODS, name, namespace=namespace, grace_seconds=0, uid=facts.uid
            ),
        )

    async def _until_done(
        self, facts: PodFacts, request: Callable[[str, str], Awaitable[object]]
    ) -> None:
        """Asks until it is done, as a kubelet does, or the pod has gone."""
        namespace, _, name = facts.key.partition("/")
        backoff = Backoff(longest=_LONGEST_PAUSE)
        while True:
            try:
                await request(namespace, name)
            except (Conflict, NotFound):
                return
            except KubeError:
                await asyncio.sleep(backoff.delay())
            else:
                return


def _project(pod: Json) -> _Bound | None:
    """Pods without slices run as well; nobody measures them any further."""
    facts = project_pod(pod)
    if facts is None:
        return None
    metadata = pod["metadata"]
    seconds = (metadata.get("annotations") or {}).get(LIFETIME)
    return _Bound(
        facts,
        float(seconds) if seconds is not None else None,
        bool(metadata.get("deletionTimestamp")),
    )
