"""A planner on a real control plane of its own, with simulated agents behind it.

Of its own, because a planner takes every NodeLayout for its own business.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from mpslice.kube.api import EVENTS, NODE_LAYOUTS, NODES, PODS, Json, Kube, Resource, list_all
from mpslice.kube.errors import NotFound
from mpslice.kube.events import EventRecorder
from mpslice.kube.session import Session
from planner.controller import Controller, Settings
from planner.metrics import Metrics
from tests.chart import render
from tests.planner.agents import SimulatedAgents
from tests.waiting import eventually

LABEL = ("nos.nebuly.com/gpu-partitioning", "mps")


@pytest.fixture(scope="session", autouse=True)
def solver_has_time() -> Iterator[None]:
    """On a busy machine the solver may take long, and a plan without it is another plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.packing.budget.SOLVER_SECONDS", 100.0)
        yield


@pytest.fixture(scope="session")
def planner_plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    """A control plane with the NodeLayout kind and nothing else of ours."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = controlplane.start(cluster, cluster_parts, cluster_say)
        documents = render(cluster_parts.helm, "--show-only=templates/crd.yaml")
        plane.kubectl("apply", "--filename=-", input=json.dumps(documents[0]))
        plane.kubectl("wait", "--for=condition=Established", "crd/nodelayouts.mpslice.io")
        yield plane
    for program in plane.programs:
        program.stop()


@pytest.fixture
async def kube(planner_plane: ControlPlane) -> AsyncIterator[Session]:
    """A session as cluster admin on a cluster without nodes, pods and layouts."""
    async with await Session.connect("test", str(planner_plane.kubeconfig)) as session:
        await _empty(session)
        yield session


async def _empty(kube: Session) -> None:
    for resource in (PODS, NODES, NODE_LAYOUTS):
        for item in await list_all(kube, resource):
            metadata = item["metadata"]
            await _delete(kube, resource, metadata)
    for resource in (PODS, NODES, NODE_LAYOUTS):
        await eventually(partial(_is_empty, kube, resource), f"no {resource.plural} are left")


async def _delete(kube: Session, resource: Resource, metadata: Json) -> None:
    try:
        namespace = metadata.get("namespace")
        await kube.delete(resource, metadata["name"], namespace=namespace, grace_seconds=0)
    except NotFound:
        pass  # its owner's deletion was quicker


async def _is_empty(kube: Session, resource: Resource) -> bool:
    return not await list_all(kube, resource)


SETTINGS = Settings(label=LABEL, batch_idle=0.2, batch_max=2.0, gate=True, max_slices_per_gpu=48)
GATHERING = replace(SETTINGS, batch_idle=3.0, batch_max=20.0)
"""What is made right after another pod is planned at once with it, though the machine be slow."""


@asynccontextmanager
async def planner_at_work(
    kube: Kube, *, settings: Settings = SETTINGS, **options: Any
) -> AsyncIterator[None]:
    """A leading controller, until the end of the block or a crash's."""
    recorder = EventRecorder(kube, "mpslice-planner")
    controller = Controller(kube, settings, recorder, Metrics(), **options)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(work)
            for work in (controller.follow(), controller.lead(), recorder.run())
        ]
        yield
        for task in running:
            task.cancel()


@asynccontextmanager
async def agents_at_work(kube: Kube, gpus: dict[str, list[int]]) -> AsyncIterator[SimulatedAgents]:
    """Agents for the nodes in `gpus` (capacities in gb)."""
    agents = SimulatedAgents(kube, gpus)
    task = asyncio.create_task(agents.run())
    try:
        yield agents
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


@asynccontextmanager
async def planning(
    kube: Session, gpus: dict[str, list[int]], **options: Any
) -> AsyncIterator[SimulatedAgents]:
    """A leading controller with its agents."""
    async with agents_at_work(kube, gpus) as agents, planner_at_work(kube, **options):
        yield agents


async def events_of(kube: Session, pod: str, reason: str) -> list[str]:
    """The messages of a pod's Events with the reason; not those of an earlier pod of its name."""
    uid = (await kube.read(PODS, pod, namespace="default"))["metadata"]["uid"]
    return [
        event["message"]
        for event in await list_all(kube, EVENTS, namespace="default")
        if event["involvedObject"].get("uid") == uid and event["reason"] == reason
    ]


async def served(kube: Session, *nodes: str) -> None:
    """Waits until the agents of the nodes have reported: before that, no pod fits there."""

    async def reported() -> bool:
        layouts = await list_all(kube, NODE_LAYOUTS)
        with_status = {layout["metadata"]["name"] for layout in layouts if layout.get("status")}
        return with_status.issuperset(nodes)

    await eventually(reported, f"the agents of {', '.join(nodes)} have reported")
