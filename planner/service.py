"""The planner as a process: session, ops port, election and the controller's tasks."""

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Final

from mpslice.flags import Address
from mpslice.kube.elector import Elector
from mpslice.kube.events import EventRecorder
from mpslice.kube.session import Session
from mpslice.ops import serve_ops
from planner.controller import Controller, Settings
from planner.metrics import Metrics

LEASE: Final = "mpslice-planner"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the process needs besides the planning itself."""

    planning: Settings
    ops_listen: Address
    leader_elect: bool = True
    namespace: str = "mpslice-system"
    kubeconfig: str | None = None


async def serve(settings: ServiceSettings) -> None:
    """Runs until cancelled. Raises an MpsliceError when it cannot start."""
    metrics = Metrics()
    async with await Session.connect("planner", settings.kubeconfig) as kube:
        recorder = EventRecorder(kube, "mpslice-planner")
        controller = Controller(kube, settings.planning, recorder, metrics)

        def not_ready() -> str:
            return "" if controller.synced else "the cluster has not been listed yet"

        ops = serve_ops(settings.ops_listen, metrics.registry, not_ready)
        async with ops, asyncio.TaskGroup() as tasks:
            tasks.create_task(controller.follow())
            tasks.create_task(recorder.run())
            tasks.create_task(_lead(kube, controller, settings))


async def _lead(kube: Session, controller: Controller, settings: ServiceSettings) -> None:
    if not settings.leader_elect:
        await controller.lead()
        return
    identity = f"{socket.gethostname()}_{os.getpid()}"
    elector = Elector(kube, namespace=settings.namespace, name=LEASE, identity=identity)
    await elector.run(controller.lead)
