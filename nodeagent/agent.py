"""The agent as a whole, from its start to its end.

The order of the start is the order of urgency: first the kubelet hears of every slice that this
machine knows of; then what is slow to import, and the API server.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

from mpslice.kube.api import Kube
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.local import LocalNode
from nodeagent.settings import Settings


class ClosableKube(Kube, Protocol):
    """A `Kube` that is closed at the end."""

    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[ClosableKube]]


async def run_agent(settings: Settings, gpus: Gpus, mps: MpsControl, connect: Connect) -> None:
    """Runs until cancelled; raises AgentErrors, in a group, for what only a person can mend."""
    async with LocalNode(settings, gpus, mps) as local, asyncio.TaskGroup() as tasks:
        try:
            await local.serve_early(tasks)
            kube = await connect()
            try:
                await _live(local, kube, tasks)
            finally:
                await kube.close()
        finally:
            await local.handoff.link.stop()


async def _live(local: LocalNode, kube: Kube, tasks: asyncio.TaskGroup) -> None:
    # Imported this late because they take as long as all the rest.
    from nodeagent.controller import Controller
    from nodeagent.metrics import Metrics

    metrics = Metrics(local.settings.node_name, local.settings.memory_unit)
    controller = Controller(local, kube, metrics, tasks)
    async with AsyncExitStack() as stack:
        if local.settings.ops_listen is not None:
            from mpslice.ops import serve_ops

            ops = serve_ops(local.settings.ops_listen, metrics.registry, controller.not_ready)
            await stack.enter_async_context(ops)
        work = tasks.create_task(controller.run(), name="controller")
        try:
            await asyncio.Event().wait()
        finally:
            work.cancel()
            await asyncio.wait((work,))
            await controller.say_goodbye()
