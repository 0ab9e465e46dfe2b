"""What the reaper has done in its child processes: supervising, and the container's end."""

import asyncio
import logging
import os

from mpslice.gpus import GpuUuid
from nodeagent.errors import AgentError
from nodeagent.hardware import ComputeModes
from nodeagent.mps import shm
from nodeagent.mps.errors import NoDaemon
from nodeagent.mps.keeper import Tools
from nodeagent.mps.modes import open_compute_modes
from nodeagent.mps.processes import daemon_of
from nodeagent.mps.settings import MpsSettings
from nodeagent.mps.supervisor import supervise as supervise_daemons

log = logging.getLogger(__name__)


async def supervise(settings: MpsSettings) -> None:
    """Keeps the daemons until cancelled; raises an AgentError for what only a person can mend."""
    settings.driver.load_nvml()
    async with open_compute_modes() as modes:
        tools = await _tools(settings, modes)
        async with asyncio.TaskGroup() as tasks:
            if not settings.host_ipc:
                tasks.create_task(_sweep(settings), name="sweep")
            await supervise_daemons(tools)


async def _tools(settings: MpsSettings, modes: ComputeModes) -> Tools:
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


async def finish(settings: MpsSettings) -> None:
    """For a container that is about to end: what is left in it is killed soon.

    Every compute mode that is ours is DEFAULT again, which disturbs nobody who runs, and each
    daemon ends as soon as it has no client. The next supervisor takes all of it up again.
    """
    settings.driver.load_nvml()
    async with open_compute_modes() as modes:
        tools = await _tools(settings, modes)
        gpus = await asyncio.to_thread(settings.root.gpus)
        await asyncio.gather(*(_leave(gpu, tools) for gpu in gpus))


async def _leave(gpu: GpuUuid, tools: Tools) -> None:
    try:
        await _set_back(gpu, tools)
    except (AgentError, OSError) as error:
        log.error("the compute mode is not set back: %s", error, extra={"gpu": gpu})
    if daemon_of(tools.root.pipe(gpu), gpu) is None:
        return
    try:
        await tools.control(gpu).drain()
    except (NoDaemon, OSError):
        return


async def _set_back(gpu: GpuUuid, tools: Tools) -> None:
    mark = tools.root.exclusive(gpu)
    if not mark.exists():
        return
    if await tools.modes.is_exclusive(gpu):
        await tools.modes.set_exclusive(gpu, exclusive=False)
    mark.unlink()
