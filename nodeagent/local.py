"""The part of the agent that needs no API server: this machine's GPUs, slices and kubelet.

It imports little and starts first, because pods that the kubelet admits before it hears of their
slices are lost.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from mpslice.gpus import GpuUuid, capacity_gb
from nodeagent.errors import KubeletUnavailable
from nodeagent.gpus import nos
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.kubelet.checkpoint import read_checkpoint
from nodeagent.kubelet.link import KubeletLink, remove_left_sockets
from nodeagent.kubelet.podresources import PodResources
from nodeagent.kubelet.service import SliceService
from nodeagent.settings import Settings
from nodeagent.slices.adoption import adopt
from nodeagent.slices.holders import Pods
from nodeagent.slices.inventory import Inventory
from nodeagent.slices.ledger import Ledger
from nodeagent.slices.leftovers import Leftovers

_EARLY_SECONDS: Final = 1.0  # what the first registrations may delay the API server's turn

log = logging.getLogger(__name__)


class LocalNode(AbstractAsyncContextManager["LocalNode"]):
    """Builds the parts and holds them together; `pods` is replaced once the cluster is known."""

    def __init__(self, settings: Settings, gpus: Gpus, mps: MpsControl) -> None:
        self.settings = settings
        self.gpus = gpus
        self.mps = mps
        self.pods: Callable[[], Pods] = Pods
        self.inventory = Inventory(gpus.read())
        self.pod_resources = PodResources(settings.pod_resources_socket)
        self.ledger = Ledger(
            self.pod_resources, settings.checkpoint, self._known_pods, Leftovers(gpus)
        )
        service = SliceService(settings, self.inventory, self.ledger, mps)
        self.link = KubeletLink(settings.kubelet_socket, service)

    def _known_pods(self) -> Pods:
        return self.pods()

    async def __aexit__(self, *exc: object) -> None:
        await self.link.close()
        await self.pod_resources.close()

    def capacities(self) -> dict[GpuUuid, int]:
        """The gb of each GPU."""
        unit = self.settings.memory_unit
        return {gpu.uuid: capacity_gb(gpu.memory_mib, unit) for gpu in self.gpus.read()}

    async def serve_early(self, tasks: asyncio.TaskGroup) -> None:
        """Registers the slices that the kubelet's own checkpoint names.

        Which of its claims are of pods that have ended only the API server can tell: those that
        fit are served until it has. What nos's plugin has registered is left to it.
        """
        directory = self.settings.device_plugin_dir
        await asyncio.to_thread(remove_left_sockets, directory)
        tasks.create_task(self.link.follow(self.ledger.checkpoint_written), name="kubelet")
        tasks.create_task(self.mps.follow(), name="mps")
        checkpoint = await asyncio.to_thread(read_checkpoint, self.settings.checkpoint)
        claimed = [claim.id for claim in checkpoint.claims]
        with_nos = bool(checkpoint.foreign) or await asyncio.to_thread(nos.serves, directory)
        registered = () if with_nos else checkpoint.registered
        early = adopt(self.capacities(), registered, claimed)
        self.inventory.add(early.adopted, bindable=True)
        self.link.serve(self.inventory.sizes, tasks)
        try:
            await self.link.until_live(self.inventory.sizes, _EARLY_SECONDS)
        except KubeletUnavailable as error:
            log.info("the kubelet is away", extra={"error": str(error)})
