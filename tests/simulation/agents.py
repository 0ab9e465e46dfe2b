"""The real node agent on one node of a run: its controller, table and executor, process by process.

Played are the GPUs, MPS and the gRPC between the plugin and the kubelet.
"""

import asyncio
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, cast

from mpslice.gpus import DeviceId, GpuUuid, MemoryUnit
from nodeagent.controller import Controller
from nodeagent.hardware import GpuProcess, GpusChanged
from nodeagent.kubelet.handoff import DevicePlugin
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet.witness import Witness
from nodeagent.local import LocalNode
from nodeagent.metrics import Metrics
from nodeagent.mps.enforcer import MpsEnforcer
from nodeagent.pulse import Pulse
from nodeagent.seams import Enforcer, Handoff
from nodeagent.settings import Settings
from nodeagent.simulation import SimulatedGpus, SimulatedMps, parse_simulation
from nodeagent.slices.adoption import adopt
from nodeagent.slices.evidence import Claim, Reading
from nodeagent.slices.leftovers import follow_leftovers
from nodeagent.slices.pods import PodFacts
from nodeagent.slices.table import SliceTable
from tests.simulation.kubelet import Kubelet
from tests.simulation.network import Client, Network

_LISTED = (0.001, 0.006)  # seconds until the kubelet shows a list; about 3 ms on a real one
_NOWHERE = Path("/dev/null/mpslice")
"""Where nothing can be made: no socket, no pipe and no proof."""


class NodeGpus(SimulatedGpus):
    """The GPUs of a node, which outlive its agents; `make_sick` and `heal` change them."""

    def __init__(self, node: str, capacities: Sequence[int], kubelet: Kubelet) -> None:
        self._kubelet = kubelet
        self.changed = Pulse()
        entries = [
            {"uuid": f"GPU-{node}-{n}", "memoryMiB": -(-gb * 10**9 // 2**20)}
            for n, gb in enumerate(capacities)
        ]
        self._gpus = parse_simulation({"gpus": entries})

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        return self._kubelet.processes(gpu)

    def mark(self, reason: str | None) -> None:
        """The first GPU is as the reason says, well for None."""
        self._gpus = (replace(self._gpus[0], reason=reason), *self._gpus[1:])
        self.changed.beat()

    async def follow(self, on_change: GpusChanged) -> NoReturn:
        on_change(self._gpus)
        while True:
            await self.changed.after(self.changed.count)
            on_change(self._gpus)


@dataclass(slots=True)
class _Link:
    """What the agent asks of its link to the kubelet."""

    registrations: int = 0
    reconnected: Pulse = field(default_factory=Pulse)

    async def stop(self) -> None: ...


class _Plugin:
    """`nodeagent.kubelet.handoff.DevicePlugin` with a kubelet that is called, a moment later."""

    def __init__(
        self, node: "LightNode", kubelet: Kubelet, network: Network, check: Callable[[], None]
    ) -> None:
        enforcer: Enforcer = node.enforcer
        self.changed = Pulse()
        self.link = _Link()
        self.witness = Witness(node.table, self, _NOWHERE)
        self.service = SliceService(node.table, self.witness, enforcer, None, MemoryUnit.GB)
        self._table, self._users, self._kubelet = node.table, node.gpus, kubelet
        self._network, self._check = network, check
        node.table.changed.listen(self._tell_soon)

    def _tell_soon(self) -> None:
        """ListAndWatch: the kubelet has a list a little after it has changed."""
        loop, seconds = asyncio.get_running_loop(), self._network.dice.uniform(*_LISTED)
        loop.call_later(seconds, self._tell)

    def _tell(self) -> None:
        if self._kubelet.plugin is self:
            self._kubelet.listen()
            self._check()

    async def _until_known(self) -> None:
        await asyncio.sleep(self._network.dice.uniform(*_LISTED))
        self._tell()

    @property
    def pod_resources(self) -> "_Plugin":
        return self

    async def list(self) -> tuple[Claim, ...]:
        await asyncio.sleep(self._network.dice.uniform(0.001, 0.01))
        return tuple(self._kubelet.claims.values())

    async def others(self) -> dict[str, frozenset[str]]:
        return {}

    async def adopt(self, ids: Sequence[DeviceId]) -> None:
        self._table.adopt(ids)

    def serve(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self.witness.run(), name="holders")
        tasks.create_task(follow_leftovers(self._table, self._users), name="leftovers")

    async def tidy(self) -> None: ...

    async def offer(self, new: Sequence[DeviceId] = (), *, sure: bool = False) -> None:
        self._table.carve(new)
        if new or sure:
            await self._until_known()
        self._table.confirm(filter(self._table.is_offered, self._table.slices))

    async def hide(self, ids: frozenset[DeviceId]) -> None:
        self._table.retire(ids)
        await self._until_known()

    def forget(self, ids: Iterable[DeviceId]) -> None: ...

    def expect(self, coming: Collection[DeviceId]) -> None: ...

    async def look(self) -> None:
        await self.witness.look()

    def shows(self, pod: PodFacts) -> bool:
        return self._table.reading.shows(pod)

    async def leave(self) -> None: ...

    async def end(self) -> None:
        """It has ended: `Agent.stop` disconnects it at once."""


class LightNode(LocalNode):
    """The agent's own part of a node, on the kubelet and the GPUs of the run."""

    def __init__(
        self,
        name: str,
        gpus: NodeGpus,
        kubelet: Kubelet,
        network: Network,
        check: Callable[[], None],
    ) -> None:
        self.settings = Settings(
            node_name=name,
            device_plugin_dir=_NOWHERE,
            pod_resources_socket=_NOWHERE,
            mps_root=_NOWHERE,
            ops_listen=None,
            cdi=False,
        )
        self.gpus, self.mps = gpus, SimulatedMps(gpus)
        self.table = SliceTable(gpus.read())
        self.enforcer = MpsEnforcer(self.settings, self.mps)
        self.plugin = _Plugin(self, kubelet, network, check)
        seam: Handoff = self.plugin
        # It has besides what the controller asks of a device plugin.
        self.handoff = cast(DevicePlugin, seam)
        self._kubelet = kubelet

    async def begin(self) -> None:
        """As `serve_early`, with what the kubelet's checkpoint would say."""
        claims = tuple(self._kubelet.claims.values())
        claimed = [claim.id for claim in claims]
        found = adopt(self.capacities(), self._kubelet.registered, claimed)
        await self.handoff.adopt(found.adopted)
        self.table.read(Reading(0.0, (), claims))
        self._kubelet.connect(self.plugin)


class Agent:
    """The agent's processes on one node, one after the other."""

    def __init__(
        self,
        name: str,
        gpus: NodeGpus,
        kubelet: Kubelet,
        network: Network,
        problem: Callable[[str], None],
    ) -> None:
        self.name, self.gpus, self.kubelet = name, gpus, kubelet
        self.local: LightNode | None = None
        self.controller: Controller | None = None
        self._network = network
        self._problem = problem
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_serving(self) -> bool:
        return self.controller is not None and self.controller.serving

    def start(self) -> None:
        if self._task is None:
            self._client = Client(self._network, f"agent {self.name}")
            self.local = LightNode(
                self.name, self.gpus, self.kubelet, self._network, self._check_room
            )
            self._task = asyncio.create_task(self._run(self.local, self._client))

    async def _run(self, local: LightNode, client: Client) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                await local.begin()
                controller = Controller(local, client, Metrics(self.name), tasks)
                self.controller = controller
                work = tasks.create_task(controller.run(), name="controller")
                try:
                    await asyncio.Event().wait()
                finally:
                    work.cancel()
                    await asyncio.wait((work,))
                    if not client.dead:
                        await controller.say_goodbye()
        except Exception:  # noqa: BLE001  # whatever it is, it is to be told
            self._problem(f"the agent of {self.name} ended: {traceback.format_exc()}")

    def kill(self) -> None:
        """SIGKILL: nothing that it was about to do is done."""
        if self._client is not None:
            self._client.dead = True
        self._end()

    def stop(self) -> None:
        """SIGTERM: it says goodbye, while its sockets are still there."""
        self._end()

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = self.controller = self.local = None
            self.kubelet.disconnect()

    def _check_room(self) -> None:
        """No GPU holds more than it has, neither by the table nor by what containers have."""
        if self.local is None:
            return
        for gpu, capacity in self.local.capacities().items():
            for what in (self.local.table.slices, tuple(self.kubelet.claims)):
                held = sum(id_.size for id_ in what if id_.gpu == gpu)
                if held > capacity:
                    self._problem(f"{gpu} has {capacity} gb and holds {held}: {what}")
