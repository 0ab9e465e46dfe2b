"""A hand-off and an enforcer in memory: the fakes of the two seams of a slice.

They keep what the Protocols promise, at once; `calls` is what they were asked, in order.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.edits import ContainerEdits
from nodeagent.hardware import Gpu, MpsHealth
from nodeagent.pulse import Pulse
from nodeagent.seams import Demand
from nodeagent.slices.evidence import Claim, Reading
from nodeagent.slices.pods import PodFacts
from nodeagent.slices.table import SliceTable


class FakeHandoff:
    """`given` are the slices that containers have, by the pod's key; `give` gives one more."""

    def __init__(self, table: SliceTable, calls: list[str]) -> None:
        self.changed = Pulse()
        self.given: dict[DeviceId, str] = {}
        self.calls = calls
        self.on_hide: Callable[[], None] = lambda: None
        self._table = table
        self._readings = 0

    def give(self, id_: DeviceId, pod: str) -> None:
        """The kubelet's Allocate."""
        self._table.allocate([id_])
        self.given[id_] = pod

    def expect(self, coming: Collection[DeviceId]) -> None:
        self.calls += [f"expect {size}" for size in sorted({id_.size for id_ in coming})]

    async def offer(self, new: Sequence[DeviceId] = (), *, sure: bool = False) -> None:
        self.calls.append(f"offer {len(new)}")
        self._table.carve(new)
        await asyncio.sleep(0)
        self._table.confirm(filter(self._table.is_offered, self._table.slices))

    async def hide(self, ids: frozenset[DeviceId]) -> None:
        self.calls.append(f"hide {len(ids)}")
        self._table.retire(ids)
        await asyncio.sleep(0)
        self.on_hide()

    def forget(self, ids: Iterable[DeviceId]) -> None:
        self.calls.append(f"forget {len(list(ids))}")

    async def look(self) -> None:
        self.calls.append("look")
        await asyncio.sleep(0)
        self._readings += 1
        claims = tuple(Claim(id_, "main", pod=pod) for id_, pod in self.given.items())
        self._table.read(Reading(float(self._readings), claims))

    def shows(self, pod: PodFacts) -> bool:
        return pod.key in self.given.values()

    def serve(self, tasks: asyncio.TaskGroup) -> None:
        """There is nothing to keep true."""


class FakeEnforcer:
    """Slices on GPUs that are `starting` are granted and not enforced yet."""

    def __init__(self, calls: list[str]) -> None:
        self.changed = Pulse()
        self.granted: Demand | None = None
        self.starting: frozenset[GpuUuid] = frozenset()
        self.calls = calls

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        return {}

    def edits(self, gpu: Gpu, slice_: DeviceId) -> ContainerEdits:
        return ContainerEdits({"LIMIT": f"{slice_.size}gb of {gpu.uuid}"})

    async def grant(self, demand: Demand) -> None:
        self.calls.append(f"grant {len(demand.slices)}")
        self.granted = demand

    async def lagging(self, gpus: Collection[GpuUuid], seconds: float) -> frozenset[GpuUuid]:
        return self.starting & frozenset(gpus)

    async def ready(self, slice_: DeviceId) -> None:
        self.calls.append(f"ready {slice_}")
