"""GPUs and MPS daemons out of a YAML file, for clusters that have none (`--simulated-gpus`).

The file is read again when it changes: a GPU that vanishes from it is lost, one with
`healthy: false` unhealthy. A file that has become unusable changes nothing and is logged.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from mpslice.gpus import GpuUuid
from nodeagent.errors import BadSimulation
from nodeagent.gpus.processes import pids_with_variable, pod_uid
from nodeagent.hardware import (
    Backstop,
    ComputeCapability,
    Gpu,
    GpuProcess,
    GpusChanged,
    MpsHealth,
)
from nodeagent.linux.inotify import DirectoryWatch
from nodeagent.pulse import Pulse

LOST: Final = "Lost"
UNHEALTHY: Final = "Unhealthy"

# A device id ends at 63 characters, and a GPU's name is a directory's too.
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)
_LARGEST_MIB: Final = 2**31 - 1  # 2 PiB; more is a slip
_CAPABILITY = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})", re.ASCII)
_FIELDS: Final = {
    "uuid", "product", "memoryMiB", "reservedMiB", "computeCapability", "healthy", "numaNode",
}  # fmt: skip

log = logging.getLogger(__name__)


def parse_simulation(document: object) -> tuple[Gpu, ...]:
    """The GPUs of a simulation document; raises BadSimulation naming the field."""
    entries = document.get("gpus") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise BadSimulation("gpus: is not a list of at least one GPU")
    gpus = tuple(_parse_gpu(entry, index) for index, entry in enumerate(entries))
    seen: set[str] = set()
    for gpu in gpus:
        if gpu.uuid in seen:
            raise BadSimulation(f"gpus[{gpu.index}].uuid: {gpu.uuid} is listed twice")
        seen.add(gpu.uuid)
    return gpus


def _parse_gpu(entry: object, index: int) -> Gpu:
    where = f"gpus[{index}]"
    if not isinstance(entry, Mapping):
        raise BadSimulation(f"{where}: is not a GPU with uuid and memoryMiB")
    unknown = sorted(str(key) for key in entry if key not in _FIELDS)
    if unknown:
        raise BadSimulation(f"{where}.{unknown[0]}: is no field; known are {_listed(_FIELDS)}")
    uuid = entry.get("uuid")
    if not isinstance(uuid, str) or _UUID.fullmatch(uuid) is None:
        raise BadSimulation(
            f"{where}.uuid: {uuid!r:.60} is no name like GPU-1, of up to 40 letters and digits"
        )
    memory = _whole(entry, "memoryMiB", where, least=1)
    reserved = _whole(entry, "reservedMiB", where, least=0)
    if reserved >= memory:
        raise BadSimulation(f"{where}.reservedMiB: {reserved} leaves nothing of {memory}")
    healthy = entry.get("healthy", True)
    if not isinstance(healthy, bool):
        raise BadSimulation(f"{where}.healthy: {healthy!r:.60} is neither true nor false")
    return Gpu(
        uuid=GpuUuid(uuid),
        index=index,
        product=str(entry.get("product", "Simulated GPU")),
        memory_mib=memory,
        reserved_mib=reserved,
        compute_capability=_capability(entry, where),
        numa_node=_whole(entry, "numaNode", where, least=0) if "numaNode" in entry else None,
        reason=None if healthy else UNHEALTHY,
    )


def _whole(entry: Mapping[str, Any], field: str, where: str, *, least: int) -> int:
    value = entry.get(field, 0)
    known = isinstance(value, int) and not isinstance(value, bool)
    if not (known and least <= value <= _LARGEST_MIB):
        raise BadSimulation(f"{where}.{field}: {value!r:.60} is not a whole number from {least} up")
    return int(value)


def _capability(entry: Mapping[str, Any], where: str) -> ComputeCapability:
    value = entry.get("computeCapability", "8.0")
    match = _CAPABILITY.fullmatch(str(value))
    if match is None:
        raise BadSimulation(f"{where}.computeCapability: {value!r:.60} is not like 8.0")
    return ComputeCapability(int(match[1]), int(match[2]))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def read_simulation(file: Path) -> tuple[Gpu, ...]:
    """The GPUs of a file; raises BadSimulation naming the file and the field, line or cause."""
    try:
        document = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise BadSimulation(f"simulated GPUs: {file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError is no YAMLError: a date of month 99, or what is no UTF-8.
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise BadSimulation(f"simulated GPUs: {file}{line}: is no YAML") from error
    try:
        return parse_simulation(document)
    except BadSimulation as error:
        raise BadSimulation(f"simulated GPUs: {file}: {error}") from error


def merge_reload(known: Sequence[Gpu], read: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs after a reload: a known one keeps its index, a vanished one is lost, as in NVML."""
    index = {gpu.uuid: gpu.index for gpu in known}
    found = {gpu.uuid for gpu in read}
    lost = [replace(gpu, reason=LOST) for gpu in known if gpu.uuid not in found]
    kept = [replace(gpu, index=index[gpu.uuid]) for gpu in read if gpu.uuid in index]
    new = [gpu for gpu in read if gpu.uuid not in index]
    added = [replace(gpu, index=len(known) + n) for n, gpu in enumerate(new)]
    return tuple(sorted((*lost, *kept, *added), key=lambda gpu: gpu.index))


class SimulatedGpus:
    """`Gpus` out of a file. Raises BadSimulation when the first reading fails."""

    def __init__(self, file: Path) -> None:
        self.changed = Pulse()
        self._file = file
        self._gpus = read_simulation(file)

    @property
    def tells_memory(self) -> bool:
        return False

    def read(self) -> Sequence[Gpu]:
        return self._gpus

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        """Without a driver to tell, whoever was given the GPU counts as its user."""
        return await asyncio.to_thread(_processes_given, gpu)

    async def follow(self, on_change: GpusChanged) -> NoReturn:
        # The directory and not the file: editors and ConfigMaps put a new file in its place.
        with DirectoryWatch(self._file.parent) as watch:
            await self._reload(on_change)  # it may have changed before the watch began
            while True:
                names = await watch.next()
                if names.touches(self._file.name) or names.touches("..data"):
                    await self._reload(on_change)

    async def _reload(self, on_change: GpusChanged) -> None:
        try:
            read = await asyncio.to_thread(read_simulation, self._file)
        except BadSimulation as error:
            log.error("the simulated GPUs stay as they are", extra={"error": str(error)})
            return
        merged = merge_reload(self._gpus, read)
        if merged != self._gpus:
            self._gpus = merged
            self.changed.beat()
            on_change(merged)

    def healthy(self, uuid: GpuUuid) -> bool:
        return any(gpu.uuid == uuid and gpu.healthy for gpu in self._gpus)


def _processes_given(gpu: GpuUuid) -> Sequence[GpuProcess]:
    pids = pids_with_variable(f"NVIDIA_VISIBLE_DEVICES={gpu}")
    return [GpuProcess(pid, pod_uid(pid)) for pid in pids]


class SimulatedMps:
    """`MpsControl` for simulated GPUs: a daemon serves while its GPU is healthy."""

    def __init__(self, gpus: SimulatedGpus) -> None:
        self.changed = Pulse()
        self.held: Mapping[GpuUuid, Backstop] = {}
        self._gpus = gpus

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        return dict.fromkeys(self.held, MpsHealth())

    async def hold(self, backstops: Mapping[GpuUuid, Backstop]) -> None:
        if backstops != self.held:
            self.held = dict(backstops)
            self.changed.beat()

    async def lagging(
        self,
        gpus: Collection[GpuUuid],  # noqa: ARG002  the Protocol's
        seconds: float,  # noqa: ARG002
    ) -> frozenset[GpuUuid]:
        return frozenset()

    async def wait_ready(self, gpu: GpuUuid) -> None:
        while not self._gpus.healthy(gpu):
            await self._gpus.changed.after(self._gpus.changed.count)

    async def follow(self) -> NoReturn:
        while True:
            await self.changed.after(self.changed.count)
