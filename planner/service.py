"""The planner as a process: session, ops port, page, election and the controller's tasks."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from mpslice.flags import Address
from mpslice.gpus import MemoryUnit
from mpslice.kube.elector import Elector
from mpslice.kube.events import EventRecorder
from mpslice.kube.session import Session
from mpslice.ops import serve_ops
from planner.controller import Controller, Settings
from planner.metrics import Metrics
from planner.ui.access import Access, ApiReviews
from planner.ui.feed import Feed
from planner.ui.seen import see, stranded
from planner.ui.server import serve_page

LEASE: Final = "mpslice-planner"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the process needs besides the planning itself; no page without `ui_listen`."""

    planning: Settings
    ops_listen: Address
    ui_listen: Address | None = None
    leader_elect: bool = True
    namespace: str = "mpslice-system"
    memory_unit: MemoryUnit = MemoryUnit.GB
    kubeconfig: str | None = None


async def serve(settings: ServiceSettings) -> None:
    """Runs until cancelled. Raises an MpsliceError when it cannot start."""
    metrics = Metrics(settings.memory_unit)
    async with await Session.connect("planner", settings.kubeconfig) as kube:
        recorder = EventRecorder(kube, "mpslice-planner")
        controller = Controller(kube, settings.planning, recorder, metrics)
        replica = socket.gethostname()
        identity = f"{replica}_{os.getpid()}"
        elector = Elector(
            kube,
            namespace=settings.namespace,
            name=LEASE,
            identity=identity,
            message=controller.message,
        )

        def not_ready() -> str:
            return "" if controller.synced else "the cluster has not been listed yet"

        def leader() -> str:
            return elector.holder.rpartition("_")[0] if settings.leader_elect else replica

        ops = serve_ops(settings.ops_listen, metrics.registry, not_ready)
        async with ops, _page(settings, kube, controller, leader), asyncio.TaskGroup() as tasks:
            tasks.create_task(controller.follow())
            tasks.create_task(recorder.run())
            leads = elector.run(controller.lead) if settings.leader_elect else controller.lead()
            tasks.create_task(leads)


@asynccontextmanager
async def _page(
    settings: ServiceSettings, kube: Session, controller: Controller, leader: Callable[[], str]
) -> AsyncIterator[None]:
    """Serves the page while inside, where it is wanted. Raises CannotListen."""
    if settings.ui_listen is None:
        yield
        return
    label = settings.planning.label
    look = partial(see, controller, label="=".join(label), leader=leader)
    feed = Feed(look, partial(stranded, controller, label))
    controller.notify(feed.changed)
    async with serve_page(settings.ui_listen, Access(ApiReviews(kube)), feed):
        showing = asyncio.create_task(_show(controller, feed))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait({showing})


async def _show(controller: Controller, feed: Feed) -> None:
    await controller.cluster.synced()
    await feed.run()
