"""The two seams of a slice, `Enforcer` and `Handoff`, and what crosses them.

An enforcer holds containers to their slices: MPS does now, and limits of the driver can. A hand-off
gives slices to containers: the kubelet's device plugin API does now, and dynamic resource
allocation can. Layouts and reports know these two and the table of slices, and nothing behind them.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.edits import ContainerEdits
from nodeagent.hardware import Gpu, MpsHealth
from nodeagent.pulse import Pulse
from nodeagent.slices.pods import PodFacts


@dataclass(frozen=True, slots=True)
class Demand:
    """All that an enforcer is to grant: the slices that stand or are about to, and those in use.

    With `release`, GPUs without slices are handed back to their other users.
    """

    gpus: tuple[Gpu, ...]
    slices: tuple[DeviceId, ...]
    used: frozenset[DeviceId]
    release: bool = False


class Enforcer(Protocol):
    """Holds each container to its slice. Every call raises AgentError when it cannot for now."""

    @property
    def changed(self) -> Pulse:
        """Beats when `health` may be different."""
        ...

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        """Every GPU that is held or not yet handed back. Does not block."""
        ...

    def edits(self, gpu: Gpu, slice_: DeviceId) -> ContainerEdits:
        """What makes a container obey: the same for the same slice. Does not block."""
        ...

    async def grant(self, demand: Demand) -> None:
        """From now on these slices are granted, and all others revoked; it may be repeated."""
        ...

    async def lagging(self, gpus: Collection[GpuUuid], seconds: float) -> frozenset[GpuUuid]:
        """Those GPUs on which a slice is not enforced yet, so long after it was granted.

        Returns as soon as there are none.
        """
        ...

    async def ready(self, slice_: DeviceId) -> None:
        """Returns once a container may start in the slice; the caller's deadline.

        It is asked before each start of a container, the first and any later one.
        """
        ...


class Handoff(Protocol):
    """Gives the table's slices to containers, and puts into the table which container has which.

    Every call raises AgentError when it cannot for now.
    """

    @property
    def changed(self) -> Pulse:
        """Beats when what it has offered may have to be offered again."""
        ...

    def expect(self, coming: Collection[DeviceId]) -> None:
        """These are about to be offered, and no others: what can be prepared is begun.

        Returns at once.
        """
        ...

    async def offer(self, new: Sequence[DeviceId] = (), *, sure: bool = False) -> None:
        """Puts these into the table; returns once all that it offers can be given to containers.

        It then shows them as bindable. `sure` asks even where nothing has changed since.
        """
        ...

    async def hide(self, ids: frozenset[DeviceId]) -> None:
        """Retires these in the table; returns once they are given to no container any more, but for
        those that have been restored meanwhile."""
        ...

    def forget(self, ids: Iterable[DeviceId]) -> None:
        """These have been removed from the table; what is left of them goes after an offer."""
        ...

    async def look(self) -> None:
        """Reads into the table which containers have which slices now."""
        ...

    def shows(self, pod: PodFacts) -> bool:
        """Whether each container of the pod that needs a slice was seen to have it."""
        ...

    def serve(self, tasks: asyncio.TaskGroup) -> None:
        """Keeps the table true from now on, in tasks of these."""
        ...
