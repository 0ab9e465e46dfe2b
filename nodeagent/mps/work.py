"""What the reaper has done in its child processes: supervising, and the container's end."""

import asyncio
import logging
import os
import socket
from contextlib import AsyncExitStack
from typing import Final

from mpslice.gpus import GpuUuid
from nodeagent.driver.closing import Closing
from nodeagent.errors import AgentError, NvmlError
from nodeagent.hardware import ComputeModes
from nodeagent.mps import shm
from nodeagent.mps.daemons import ReaperLine
from nodeagent.mps.errors import ControlProgramMissing, MpsError
from nodeagent.mps.keeper import Tools
from nodeagent.mps.modes import open_compute_modes
from nodeagent.mps.settings import MpsSettings
from nodeagent.mps.supervisor import supervise as supervise_daemons

DRIVER_AGAIN: Final = 5.0
"""Seconds between two tries for a driver that is not there."""

log = logging.getLogger(__name__)


async def supervise(settings: MpsSettings, line: socket.socket) -> None:
    """Keeps the daemons until cancelled; raises an AgentError for what only a person can mend."""
    async with AsyncExitStack() as stack:
        tools = await _tools_in_time(settings, line, stack)
        async with asyncio.TaskGroup() as tasks:
            if not settings.host_ipc:
                tasks.create_task(_sweep(settings), name="sweep")
            await supervise_daemons(tools)


async def _tools_in_time(
    settings: MpsSettings, line: socket.socket, stack: AsyncExitStack
) -> Tools:
    """Waits for a driver that is not there yet, as where a driver container builds it first."""
    told = ""
    while True:
        settings.driver.load_nvml()
        opened = open_compute_modes(Closing(settings.root.closed).check)
        try:
            modes = await stack.enter_async_context(opened)
            return await _tools(settings, modes, line)
        except (NvmlError, ControlProgramMissing) as error:
            await stack.aclose()
            if str(error) != told:
                told = str(error)
                log.warning("waiting for the driver: %s", error)
        await asyncio.sleep(DRIVER_AGAIN)


async def _tools(settings: MpsSettings, modes: ComputeModes, line: socket.socket) -> Tools:
    environment = settings.environment()
    identity = ""
    if not settings.host_ipc:
        directory = settings.root.shared_memory
        await asyncio.to_thread(shm.provide, directory, settings.shm_size_mib)
        identity = shm.identity(directory)
    return Tools(
        root=settings.root,
        policy=settings.policy,
        modes=modes,
        daemons=ReaperLine(line),
        program=settings.control_program(environment),
        environment=environment,
        shm=identity,
    )


async def _sweep(settings: MpsSettings) -> None:
    if os.getppid() == 1:  # our parent is a PID namespace's first process, so not the machine's
        log.warning("the private /dev/shm is not swept; run the container with hostPID")
        return
    sweeper = shm.Sweeper(settings.root.shared_memory)
    while True:
        deleted = await asyncio.to_thread(sweeper.sweep)
        if deleted:
            log.info("the private /dev/shm was swept", extra={"files": deleted})
        await asyncio.sleep(shm.SWEEP_SECONDS)


async def finish(settings: MpsSettings, line: socket.socket) -> None:
    """For a container that is about to end: what is left in it is killed soon.

    Every compute mode that is ours is DEFAULT again, which disturbs nobody who runs, and each
    daemon ends as soon as it has no client. The next supervisor takes all of it up again.
    """
    settings.driver.load_nvml()
    async with open_compute_modes(Closing(settings.root.closed).check) as modes:
        tools = await _tools(settings, modes, line)
        gpus = await asyncio.to_thread(settings.root.gpus)
        await asyncio.gather(*(_leave(gpu, tools) for gpu in gpus))


async def _leave(gpu: GpuUuid, tools: Tools) -> None:
    try:
        await _set_back(gpu, tools)
    except (AgentError, OSError) as error:
        log.error("the compute mode is not set back: %s", error, extra={"gpu": gpu})
    try:
        if gpu not in (await asyncio.to_thread(tools.daemons.roll)).living:
            return
        await tools.control(gpu).drain()
    except (MpsError, OSError) as error:
        log.info("a daemon is not asked to end: %s", error, extra={"gpu": gpu})


async def _set_back(gpu: GpuUuid, tools: Tools) -> None:
    mark = tools.root.exclusive(gpu)
    if not mark.exists():
        return
    if await tools.modes.is_exclusive(gpu):
        await tools.modes.set_exclusive(gpu, exclusive=False)
    mark.unlink()
