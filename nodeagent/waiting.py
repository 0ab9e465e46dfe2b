"""Waiting for a driver that is not there yet, while the NodeLayout says what is waited for.

A driver container may build for minutes; a program that ended meanwhile would be started again
ever more slowly.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from nodeagent.agent import Connect
from nodeagent.driver.cdi import CdiUnresolvable, check_devices
from nodeagent.errors import AgentError, NvmlError
from nodeagent.gpus.real import NvmlGpus
from nodeagent.settings import DeviceListStrategy, Settings

AGAIN: Final = 5.0
"""Seconds between two tries."""

CDI_FOLDERS: Final = (Path("/host-cdi/etc"), Path("/host-cdi/run"))
"""Where the chart mounts the host's /etc/cdi and /var/run/cdi."""

log = logging.getLogger(__name__)


async def gpus_in_time(
    settings: Settings, connect: Connect, start: Callable[[], Awaitable[NvmlGpus]]
) -> NvmlGpus:
    """What `start` returns at last. Health and readiness are served meanwhile."""
    async with AsyncExitStack() as stack:
        told = ""
        while True:
            settings.driver.load_nvml()
            try:
                gpus = await start()
                if settings.device_list_strategy is DeviceListStrategy.CDI_CRI:
                    uuids = [gpu.uuid for gpu in gpus.read()]
                    try:
                        await asyncio.to_thread(check_devices, CDI_FOLDERS, uuids)
                    except CdiUnresolvable:
                        gpus.close()
                        raise
                return gpus
            except (NvmlError, CdiUnresolvable) as error:
                if not told:
                    await _serve_ops(settings, stack)
                if str(error) != told:
                    told = str(error)
                    await _tell(settings, connect, error)
            await asyncio.sleep(AGAIN)


async def _serve_ops(settings: Settings, stack: AsyncExitStack) -> None:
    if settings.ops_listen is None:
        return
    from prometheus_client import CollectorRegistry

    from mpslice.ops import serve_ops

    ops = serve_ops(settings.ops_listen, CollectorRegistry(), lambda: "it waits for the driver")
    await stack.enter_async_context(ops)


async def _tell(settings: Settings, connect: Connect, error: AgentError) -> None:
    from nodeagent.failure import report_failure

    log.warning("waiting for the driver: %s", error)
    await report_failure(connect, settings.node_name, error)
