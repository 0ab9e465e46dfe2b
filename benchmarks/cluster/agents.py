"""Many node agents in one process: the real ones, but for the kubelet and MPS.

Each has its own node's token, its own connections and watches, its own table of slices, and the
loop of `nodeagent.controller`. `python -m benchmarks.cluster.agents CONFIG` runs until SIGTERM.
"""

import asyncio
import json
import signal
import sys
from asyncio import sslproto
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from benchmarks.cluster.kubelets import KubeletHandoff, Kubelets, NodeGpus
from mpslice.kube.session import Session
from mpslice.logs import set_up_logging
from nodeagent.controller import Controller
from nodeagent.kubelet.handoff import DevicePlugin
from nodeagent.local import LocalNode
from nodeagent.metrics import Metrics
from nodeagent.mps.enforcer import MpsEnforcer
from nodeagent.seams import Handoff
from nodeagent.settings import Settings
from nodeagent.simulation import SimulatedMps
from nodeagent.slices.table import SliceTable

_NOWHERE = Path("/dev/null/mpslice")
"""Where nothing can be made: no socket, no pipe and no proof is kept for a node that is none."""

_AT_ONCE = 20
"""Agents that start at the same time: of a thousand, all at once would run into their deadlines."""

_BUFFER = 2**14
"""Bytes that asyncio keeps for each TLS connection, 2**18 by itself: a GiB for 1,000 agents."""


@dataclass(frozen=True, slots=True)
class Config:
    """`kubeconfigs` are the nodes' own, by name; `report` is written once and at the end."""

    kubeconfigs: dict[str, str]
    admin: str
    gpus: int
    memory_mib: int
    report: str

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))


class LightNode(LocalNode):
    """The agent's own part of a node, on GPUs and a kubelet that are played."""

    def __init__(self, settings: Settings, gpus: NodeGpus) -> None:
        mps = SimulatedMps(gpus)
        self.settings = settings
        self.gpus = gpus
        self.mps = mps
        self.table = SliceTable(gpus.read())
        self.enforcer = MpsEnforcer(settings, mps)
        self.kubelet = KubeletHandoff(self.table, self.enforcer)
        seam: Handoff = self.kubelet
        # It has besides what the controller asks of a device plugin.
        self.handoff = cast(DevicePlugin, seam)


def _node(name: str, config: Config) -> LightNode:
    settings = Settings(
        node_name=name,
        device_plugin_dir=_NOWHERE,
        pod_resources_socket=_NOWHERE,
        mps_root=_NOWHERE,
        ops_listen=None,
        kubeconfig=config.kubeconfigs[name],
        cdi=False,
    )
    return LightNode(settings, NodeGpus(name, config.gpus, config.memory_mib))


async def _run_agent(node: LightNode, starting: asyncio.Semaphore) -> None:
    settings = node.settings
    async with AsyncExitStack() as running, starting:
        kube = await Session.connect("nodeagent", settings.kubeconfig)
        await running.enter_async_context(kube)
        tasks = await running.enter_async_context(asyncio.TaskGroup())
        controller = Controller(node, kube, Metrics(settings.node_name), tasks)
        work = tasks.create_task(controller.run())
        while not (controller.serving or work.done()):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.05)


async def run(config: Config) -> None:
    """Runs until cancelled."""
    nodes = {name: _node(name, config) for name in config.kubeconfigs}
    starting = asyncio.Semaphore(_AT_ONCE)
    async with await Session.connect("bench-kubelets", config.admin) as kube:
        kubelets = Kubelets(kube, {name: node.kubelet for name, node in nodes.items()})
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(kubelets.run(), name="kubelets")
                for name, node in nodes.items():
                    tasks.create_task(_run_agent(node, starting), name=name)
        finally:
            _report(config, kubelets)


def _report(config: Config, kubelets: Kubelets) -> None:
    Path(config.report).write_text(json.dumps({"refused": kubelets.refused}))


def main() -> None:
    """Reads the configuration; SIGTERM ends it."""
    set_up_logging("warning")
    sslproto.SSLProtocol.max_size = _BUFFER
    config = Config(**json.loads(Path(sys.argv[1]).read_text()))

    async def until_signal() -> None:
        work = asyncio.create_task(run(config))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            return

    asyncio.run(until_signal())


if __name__ == "__main__":
    main()
