"""The agent as a whole, from its start to its end.

The order of the start is the order of urgency: first the kubelet hears of every slice that this
machine knows of; then what is slow to import, and the API server.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from mpslice.kube.api import Kube
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.local import LocalNode
from nodeagent.settings import Settings

log = logging.getLogger(__name__)


class ClosableKube(Kube, Protocol):
    """A `Kube` that is closed at the end."""

    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[ClosableKube]]


class _Stopped(Exception):
    """Ends the task group once everything is done."""


async def run_agent(
    settings: Settings, gpus: Gpus, mps: MpsControl, connect: Connect, stop: asyncio.Event
) -> None:
    """Runs until `stop` is set; raises AgentErrors, in a group, for what only a person can mend."""
    async with LocalNode(settings, gpus, mps) as local:
        try:
            async with asyncio.TaskGroup() as tasks:
                await local.serve_early(tasks)
                kube = await connect()
                try:
                    await _live(local, kube, tasks, stop)
                finally:
                    await kube.close()
                await local.link.stop()
                raise _Stopped
        except* _Stopped:
            log.info("stopped", extra={"node": settings.node_name})


async def _live(
    local: LocalNode, kube: Kube, tasks: asyncio.TaskGroup, stop: asyncio.Event
) -> None:
    # Imported this late because they take as long as all the rest.
    from nodeagent.controller import Controller
    from nodeagent.metrics import Metrics
    from nodeagent.ops import ops_server

    metrics = Metrics(local.settings.node_name)
    controller = Controller(local, kube, metrics, tasks)
    address = local.settings.ops_listen
    async with ops_server(address, lambda: controller.serving, metrics.text):
        work = tasks.create_task(controller.run(), name="controller")
        await stop.wait()
        work.cancel()
        await asyncio.wait((work,))
        await controller.say_goodbye()
