"""How much GPU memory each pod uses, and which pods use more than their slices are.

MPS holds every process to the limit by itself, so the processes of one container together may use
more than its slice; only the driver's list of processes shows it.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.container import slice_limit_mib
from nodeagent.errors import NvmlError
from nodeagent.hardware import Gpu, GpuProcess, Gpus
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Holder

SAMPLE_SECONDS: Final = 10.0

Holders = Mapping[DeviceId, Holder]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PodMemory:
    """What the processes of a pod use of a GPU where it has slices, and what those come to.

    `peak_mib` is the most that they have used at once since the agent began to look.
    """

    gpu_index: int
    pod: str
    uid: str
    used_mib: int
    limit_mib: int
    peak_mib: int = 0

    @property
    def exceeds(self) -> bool:
        return self.used_mib > self.limit_mib

    @property
    def message(self) -> str:
        """What the pod's Event says when it exceeds."""
        return (
            f"its processes use {self.used_mib} MiB of GPU {self.gpu_index} and its slice is "
            f"{self.limit_mib} MiB, which MPS grants to each process; run fewer, or ask for a "
            "larger slice"
        )


def memory_by_pod(
    gpu: Gpu, processes: Iterable[GpuProcess], holders: Holders, settings: Settings
) -> list[PodMemory]:
    """One record for each pod with slices on the GPU, whether it runs anything there or not."""
    used: dict[str, int] = {}
    for process in processes:
        used[process.pod_uid] = used.get(process.pod_uid, 0) + process.memory_mib
    limits: dict[tuple[str, str], int] = {}
    for device, holder in holders.items():
        if device.gpu == gpu.uuid and holder.uid:
            about = (holder.pod, holder.uid)
            limits[about] = limits.get(about, 0) + slice_limit_mib(gpu, device, settings)
    return [
        PodMemory(gpu.index, pod, uid, used.get(uid, 0), limit)
        for (pod, uid), limit in sorted(limits.items())
    ]


class MemorySampler:
    """`samples` are the newest; `on_excess` is called when a pod begins to exceed."""

    def __init__(
        self,
        gpus: Gpus,
        judged: Mapping[GpuUuid, Gpu],
        holders: Holders,
        settings: Settings,
        on_excess: Callable[[PodMemory], None],
    ) -> None:
        self.samples: tuple[PodMemory, ...] = ()
        self._gpus = gpus
        self._judged = judged
        self._holders = holders
        self._settings = settings
        self._on_excess = on_excess
        self._exceeding: set[tuple[int, str]] = set()
        self._peaks: dict[tuple[int, str], int] = {}

    async def run(self) -> NoReturn:
        """Looks every ten seconds until cancelled."""
        while True:
            read = [(gpu, await self._read(gpu)) for gpu in self._busy()]
            unknown = {gpu.index for gpu, samples in read if samples is None}
            self._put([each for _, samples in read for each in samples or ()], unknown)
            await asyncio.sleep(SAMPLE_SECONDS)

    def _busy(self) -> list[Gpu]:
        held = {device.gpu for device in self._holders}
        return [g for g in self._judged.values() if g.uuid in held and g.works]

    async def _read(self, gpu: Gpu) -> list[PodMemory] | None:
        try:
            processes = await self._gpus.processes(gpu.uuid)
        except NvmlError as error:
            log.info("memory is not known by pod", extra={"gpu": gpu.uuid, "error": str(error)})
            return None
        return memory_by_pod(gpu, processes, self._holders, self._settings)

    def _put(self, samples: Iterable[PodMemory], unknown: Collection[int]) -> None:
        """Pods of GPUs that did not answer are where they were: coming back is no news."""
        self._note_peaks(samples := list(samples), unknown)
        self.samples = tuple(replace(s, peak_mib=self._peaks[s.gpu_index, s.uid]) for s in samples)
        before = self._exceeding
        self._exceeding = {(s.gpu_index, s.uid) for s in self.samples if s.exceeds}
        self._exceeding |= {(index, uid) for index, uid in before if index in unknown}
        for sample in self.samples:
            if (sample.gpu_index, sample.uid) in self._exceeding - before:
                self._on_excess(sample)

    def _note_peaks(self, samples: Iterable[PodMemory], unknown: Collection[int]) -> None:
        """Keeps the peaks of pods measured now, and of pods on GPUs that did not answer."""
        before = self._peaks
        self._peaks = {key: peak for key, peak in before.items() if key[0] in unknown}
        for sample in samples:
            key = sample.gpu_index, sample.uid
            self._peaks[key] = max(sample.used_mib, before.get(key, 0))
