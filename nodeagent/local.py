"""The part of the agent that needs no API server: this machine's GPUs, slices and kubelet.

It imports little and starts first, because pods that the kubelet admits before it hears of their
slices are lost.
"""

import asyncio
from contextlib import AbstractAsyncContextManager

from mpslice.gpus import GpuUuid, capacity_gb
from nodeagent.gpus import nos
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.kubelet.checkpoint import read_checkpoint
from nodeagent.kubelet.handoff import DevicePlugin
from nodeagent.mps.enforcer import MpsEnforcer
from nodeagent.settings import Settings
from nodeagent.slices.adoption import adopt
from nodeagent.slices.evidence import Reading
from nodeagent.slices.table import SliceTable


class LocalNode(AbstractAsyncContextManager["LocalNode"]):
    """Builds the parts and holds them together."""

    def __init__(self, settings: Settings, gpus: Gpus, mps: MpsControl) -> None:
        self.settings = settings
        self.gpus = gpus
        self.mps = mps
        self.table = SliceTable(gpus.read())
        self.enforcer = MpsEnforcer(settings, mps)
        self.handoff = DevicePlugin(settings, self.table, self.enforcer, gpus)

    async def __aexit__(self, *exc: object) -> None:
        await self.handoff.close()

    def capacities(self) -> dict[GpuUuid, int]:
        """The gb of each GPU."""
        unit = self.settings.memory_unit
        return {gpu.uuid: capacity_gb(gpu.memory_mib, unit) for gpu in self.gpus.read()}

    async def serve_early(self, tasks: asyncio.TaskGroup) -> None:
        """Registers the slices that the kubelet's own checkpoint names.

        Which of its claims are of pods that have ended only the API server can tell: those that
        fit are served until it has. What nos's plugin has registered is left to it.
        """
        tasks.create_task(self.mps.follow(), name="mps")
        checkpoint = await asyncio.to_thread(read_checkpoint, self.settings.checkpoint)
        claimed = [claim.id for claim in checkpoint.claims]
        directory = self.settings.device_plugin_dir
        with_nos = bool(checkpoint.foreign) or await asyncio.to_thread(nos.serves, directory)
        registered = () if with_nos else checkpoint.registered
        await self.handoff.adopt(adopt(self.capacities(), registered, claimed).adopted)
        # What it names now explains no Allocate that is still to come.
        self.table.read(Reading(0.0, (), checkpoint.claims))
        await self.handoff.begin(tasks)
