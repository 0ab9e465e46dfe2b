"""The programs of the session beside the control plane: planner, node agents and their metrics.

The planner is the real one, in this process. The agents are simulated; what serves their metrics
uses the agent's own code.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from aiohttp import web
from prometheus_client import generate_latest

from hack.cluster.controlplane import ControlPlane
from mpslice.gpus import MIB
from mpslice.kube.api import PODS, Json, PatchType
from mpslice.kube.events import EventRecorder
from mpslice.kube.session import Session
from mpslice.nodelayout import LayoutStatus, NodeLayout
from nodeagent.gpus.memory import PodMemory
from nodeagent.metrics import Metrics as AgentMetrics
from planner.controller import Controller
from planner.metrics import Metrics
from tests.chart import render
from tests.cli.session.pods import RELEASE, SLOTS
from tests.planner.agents import SimulatedAgents
from tests.planner.conftest import SETTINGS

Holder = tuple[int, str, int]
"""A used slice: the GPU's index, the pod and the size in gb."""


class Agents(SimulatedAgents):
    """With A100s, of which all but the first on n4 are in MIG mode."""

    def _status(self, layout: NodeLayout) -> LayoutStatus:
        status = super()._status(layout)
        gpus = (replace(gpu, product="NVIDIA A100", memory_mib=81_920) for gpu in status.gpus)
        mig = (
            replace(gpu, healthy=False, reason="MigMode")
            if layout.name == "n4" and gpu.index
            else gpu
            for gpu in gpus
        )
        return replace(status, gpus=tuple(mig))


def planner_deployment(plane: ControlPlane) -> Json:
    """The planner's Deployment as the chart makes it, without pods: it runs in this process."""
    limit = f"--set=mps.maxSlicesPerGPU={SLOTS}"
    only = "--show-only=templates/planner-deployment.yaml"
    (found,) = (
        each for each in render(plane.parts.helm, only, limit) if each["kind"] == "Deployment"
    )
    found["spec"]["replicas"] = 0
    return found


@contextlib.asynccontextmanager
async def at_work(kube: Session, agents: Agents) -> AsyncIterator[Controller]:
    """Agents and a leading planner, which it yields."""
    recorder = EventRecorder(kube, "mpslice-planner")
    settings = replace(SETTINGS, max_slices_per_gpu=SLOTS)
    controller = Controller(kube, settings, recorder, Metrics())
    async with asyncio.TaskGroup() as tasks:
        work = (agents.run(), controller.follow(), controller.lead(), recorder.run())
        running = [tasks.create_task(each) for each in work]
        yield controller
        for task in running:
            task.cancel()


@contextlib.asynccontextmanager
async def agent_with_metrics(
    kube: Session, address: str, node: str, holders: Iterable[Holder]
) -> AsyncIterator[None]:
    """A server with the agent's own metrics, and a pod by which the API server finds it."""
    metrics = AgentMetrics(node)
    samples = [
        PodMemory(gpu, name, name, *_used(number, size * 10**9 // MIB))
        for number, (gpu, name, size) in enumerate(holders)
    ]
    metrics.watch_memory(lambda: samples)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry))

    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, 0).start()
        await _make_agent(kube, node, address, runner.addresses[0][1])
        yield
    finally:
        await runner.cleanup()


async def _make_agent(kube: Session, node: str, address: str, port: int) -> None:
    """The agent's pod, which no kubelet runs, as running at the address."""
    labels = {"app.kubernetes.io/name": "mpslice", "app.kubernetes.io/component": "nodeagent"}
    ports = [{"name": "ops", "containerPort": port}]
    name = f"mpslice-nodeagent-{node}"
    agent: Json = {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "nodeagent", "image": "none", "ports": ports}],
            "automountServiceAccountToken": False,
        },
    }
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    await kube.create(PODS, agent, namespace=RELEASE)
    await kube.patch(
        PODS,
        name,
        {"status": status},
        type=PatchType.MERGE,
        namespace=RELEASE,
        subresource="status",
    )


def _used(number: int, limit: int) -> tuple[int, int, int]:
    """What a pod uses now, its limit, and its peak: from a tenth to nine tenths of the limit."""
    now = limit * (1 + number * 3 % 9) // 10
    return now, limit, min(limit, now + limit // 20)
