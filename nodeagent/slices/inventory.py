"""The slices that stand on this node's GPUs, and what the kubelet is told of each.

The one mutable record that the device plugin, the executor and the reports share. It changes only
between awaits, so whoever reads it sees a whole layout.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.hardware import Gpu
from nodeagent.pulse import Pulse


@dataclass(frozen=True, slots=True)
class Listed:
    """One device of a ListAndWatch list."""

    id: DeviceId
    healthy: bool
    numa_node: int | None = None


class Inventory:
    """A slice is *bindable* once the kubelet has shown that it knows it.

    On its way out it is first *closed*, so that the node's status no longer counts it, then
    *retired*: still listed, and Unhealthy. Only then is it removed.
    """

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._bindable: dict[DeviceId, bool] = {}
        self._closed: set[DeviceId] = set()
        self._retired: set[DeviceId] = set()
        self._sizes: set[SliceSize] = set()
        self._ordered: tuple[DeviceId, ...] | None = ()
        self._by_gpu: dict[GpuUuid, tuple[DeviceId, ...]] = {}
        self.changed = Pulse()
        self.gpus: Mapping[GpuUuid, Gpu] = MappingProxyType(self._gpus)

    def put_gpus(self, gpus: Sequence[Gpu]) -> None:
        """Replaces what is known of the GPUs; slices keep standing, healthy or not."""
        self._gpus.clear()
        self._gpus.update({gpu.uuid: gpu for gpu in gpus})
        self._ordered = None
        self.changed.beat()

    def add(self, ids: Iterable[DeviceId], *, bindable: bool = False) -> None:
        """Slices stand from now on; those that stand already stay as they are."""
        for device in ids:
            self._bindable.setdefault(device, bindable)
            self._sizes.add(device.size)
        self._ordered = None
        self.changed.beat()

    def confirm(self, ids: Iterable[DeviceId]) -> None:
        """The kubelet knows these."""
        self._bindable.update((device, True) for device in ids if device in self._bindable)

    def close(self, ids: Iterable[DeviceId]) -> None:
        """The scheduler is to choose these no more."""
        self._closed.update(device for device in ids if device in self._bindable)

    def retire(self, ids: Iterable[DeviceId]) -> None:
        """Nor is the kubelet."""
        self._retired.update(device for device in ids if device in self._bindable)
        self.changed.beat()

    def restore(self, ids: Iterable[DeviceId]) -> None:
        """These stay after all."""
        self._closed.difference_update(ids)
        self._retired.difference_update(ids)
        self.changed.beat()

    def remove(self, ids: Iterable[DeviceId]) -> None:
        """These slices are no more."""
        for device in ids:
            self._bindable.pop(device, None)
            self._closed.discard(device)
            self._retired.discard(device)
        self._ordered = None
        self.changed.beat()

    def forget_empty_sizes(self) -> frozenset[SliceSize]:
        """Sizes without slices are no longer served; which they are."""
        empty = frozenset(self._sizes - {device.size for device in self._bindable})
        self._sizes -= empty
        return empty

    def __contains__(self, device: object) -> bool:
        return device in self._bindable

    @property
    def slices(self) -> tuple[DeviceId, ...]:
        """All that stand, by GPU index, size and ordinal."""
        if self._ordered is None:  # hundreds of slices, asked for several times a change
            self._ordered = tuple(sorted(self._bindable, key=self._order))
            by_gpu = groupby(self._ordered, key=attrgetter("gpu"))
            self._by_gpu = {uuid: tuple(devices) for uuid, devices in by_gpu}
        return self._ordered

    @property
    def sizes(self) -> frozenset[SliceSize]:
        """Every size that this process has served; one without slices keeps an empty list."""
        return frozenset(self._sizes)

    def is_bindable(self, device: DeviceId) -> bool:
        """Whether the kubelet has shown that it knows the slice."""
        return self._bindable.get(device, False)

    def is_offered(self, device: DeviceId) -> bool:
        """Whether the kubelet is told that the slice is healthy."""
        gpu = self._gpus.get(device.gpu)
        works = gpu is not None and gpu.works
        return works and device in self._bindable and device not in self._retired

    def is_open(self, device: DeviceId) -> bool:
        """Whether the scheduler may count on the slice."""
        return self.is_bindable(device) and self.is_offered(device) and device not in self._closed

    def is_closed(self, device: DeviceId) -> bool:
        """Whether the slice is on its way out."""
        return device in self._closed

    def on_gpu(self, uuid: GpuUuid) -> tuple[DeviceId, ...]:
        return self._by_gpu.get(uuid, ()) if self.slices else ()

    def devices(self, size: SliceSize) -> tuple[Listed, ...]:
        """The list of one size as the kubelet gets it."""
        return tuple(self._listed(device) for device in self.slices if device.size == size)

    def _listed(self, device: DeviceId) -> Listed:
        gpu = self._gpus.get(device.gpu)
        return Listed(device, self.is_offered(device), gpu.numa_node if gpu else None)

    def _order(self, device: DeviceId) -> tuple[int, str, int, int]:
        gpu = self._gpus.get(device.gpu)
        return (gpu.index if gpu else len(self._gpus), device.gpu, device.size, device.ordinal)
