"""The agent's Prometheus metrics, in a registry of its own; gauges are read when asked for."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mpslice.gpus import MIB, GpuUuid, MemoryUnit
from mpslice.nodelayout import GpuStatus
from mpslice.slices import size_label
from nodeagent.gpus.memory import PodMemory
from nodeagent.hardware import Gpu, MpsHealth

_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """What happened since the start, and, through `watch`, what stands now.

    `unit` is the bytes of one gb: Prometheus' own lint wants memory in bytes.
    """

    def __init__(self, node: str, unit: MemoryUnit = MemoryUnit.GB) -> None:
        self._node = node
        self._unit = unit
        self.registry = CollectorRegistry()
        self._carved = self._counter("slices_carved", "Slices made")
        self._withdrawn = self._counter("slices_withdrawn", "Slices taken away")
        self._given_up = self._counter("withdrawals_given_up", "Slices that had to stay after all")
        self._refused = self._counter(
            "failed_kubelet_admissions", "Slice pods that the kubelet refused"
        )
        self._publish = Histogram(
            "mpslice_status_write_seconds",
            "Time to write node and NodeLayout status",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._apply = Histogram(
            "mpslice_layout_apply_seconds",
            "Time from seeing a NodeLayout to having applied it",
            registry=self.registry,
            buckets=_SECONDS,
        )

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"mpslice_{name}", help, registry=self.registry)

    def watch(
        self, gpus: Callable[[], Iterable[GpuStatus]], registrations: Callable[[], int]
    ) -> None:
        """Exposes the GPUs with their slices, and how often sizes were registered."""
        self.registry.register(_Gauges(self._node, self._unit, gpus, registrations))

    def watch_memory(self, samples: Callable[[], Iterable[PodMemory]]) -> None:
        """Exposes the GPU memory of each pod that has slices."""
        self.registry.register(_Memory(self._node, samples))

    def watch_mps(
        self,
        health: Callable[[], Mapping[GpuUuid, MpsHealth]],
        gpus: Callable[[], Mapping[GpuUuid, Gpu]],
    ) -> None:
        """Exposes the MPS daemons of the GPUs that are held."""
        self.registry.register(_Mps(self._node, health, gpus))

    def carved(self, count: int) -> None:
        self._carved.inc(count)

    def withdrawn(self, count: int, given_up: int) -> None:
        self._withdrawn.inc(max(count, 0))
        self._given_up.inc(given_up)

    def refused(self) -> None:
        """A slice pod failed the kubelet's admission."""
        self._refused.inc()

    def published(self, seconds: float) -> None:
        self._publish.observe(seconds)

    def applied(self, seconds: float) -> None:
        self._apply.observe(seconds)


class _Mps(Collector):
    def __init__(
        self,
        node: str,
        health: Callable[[], Mapping[GpuUuid, MpsHealth]],
        gpus: Callable[[], Mapping[GpuUuid, Gpu]],
    ) -> None:
        self._node = node
        self._health = health
        self._gpus = gpus

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        up = GaugeMetricFamily(
            "mpslice_mps_daemon_up",
            "1 while the MPS daemon of a GPU that is held serves",
            labels=["node", "gpu"],
        )
        restarts = CounterMetricFamily(
            "mpslice_mps_daemon_restarts",
            "How often the MPS daemon of a GPU was started again",
            labels=["node", "gpu"],
        )
        gpus = self._gpus()
        for uuid, health in self._health().items():
            index = str(gpus[uuid].index) if uuid in gpus else uuid
            up.add_metric([self._node, index], float(health.ready))
            restarts.add_metric([self._node, index], health.restarts)
        return (up, restarts)


class _Memory(Collector):
    def __init__(self, node: str, samples: Callable[[], Iterable[PodMemory]]) -> None:
        self._node = node
        self._samples = samples

    def collect(self) -> Iterable[GaugeMetricFamily]:
        labels = ["node", "gpu", "namespace", "pod"]
        used = GaugeMetricFamily(
            "mpslice_slice_memory_used_bytes", "GPU memory of a pod's processes", labels=labels
        )
        limit = GaugeMetricFamily(
            "mpslice_slice_memory_limit_bytes", "Memory of a pod's slices", labels=labels
        )
        peak = GaugeMetricFamily(
            "mpslice_slice_memory_peak_bytes",
            "The most GPU memory that a pod's processes have used since the agent's start",
            labels=labels,
        )
        for sample in self._samples():
            namespace, _, name = sample.pod.partition("/")
            values = [self._node, str(sample.gpu_index), namespace, name]
            used.add_metric(values, sample.used_mib * MIB)
            peak.add_metric(values, sample.peak_mib * MIB)
            limit.add_metric(values, sample.limit_mib * MIB)
        return (used, peak, limit)


class _Gauges(Collector):
    def __init__(
        self,
        node: str,
        unit: MemoryUnit,
        gpus: Callable[[], Iterable[GpuStatus]],
        registrations: Callable[[], int],
    ) -> None:
        self._node = node
        self._unit = unit
        self._gpus = gpus
        self._registrations = registrations

    def collect(self) -> Iterable[GaugeMetricFamily]:
        slices = GaugeMetricFamily(
            "mpslice_slices", "Slices that stand", labels=["node", "gpu", "size", "state"]
        )
        memory = GaugeMetricFamily(
            "mpslice_gpu_memory_bytes",
            "GPU memory that slices may have, by state: used, free, uncarved",
            labels=["node", "gpu", "state"],
        )
        healthy = GaugeMetricFamily(
            "mpslice_gpu_healthy", "1 while the GPU is healthy", labels=["node", "gpu"]
        )
        for gpu in self._gpus():
            index = str(gpu.index)
            counts: dict[tuple[str, str], int] = {}
            for entry in gpu.slices:
                key = (size_label(entry.id.size), str(entry.state).lower())
                counts[key] = counts.get(key, 0) + 1
            for (size, state), count in sorted(counts.items()):
                slices.add_metric([self._node, index, size, state], count)
            carved = sum(entry.id.size for entry in gpu.slices)
            amounts = {
                "used": gpu.used_gb,
                "free": carved - gpu.used_gb,
                "uncarved": gpu.capacity_gb - carved,
            }
            for state, gb in amounts.items():
                memory.add_metric([self._node, index, state], gb * self._unit.value)
            healthy.add_metric([self._node, index], float(gpu.healthy))
        registrations = GaugeMetricFamily(
            "mpslice_kubelet_registrations", "How often sizes were registered since the start"
        )
        registrations.add_metric([], self._registrations())
        return (slices, memory, healthy, registrations)
