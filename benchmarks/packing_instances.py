"""Clusters and pods to pack: the openb fleet and its GPU-sharing pods, or the like of them.

The trace's tables are read where they lie and never committed. Without them a generator with the
same distribution of shares, CPU, memory and nodes stands in, and the report says so.
"""

import csv
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from mpslice.gpus import MIB, GpuUuid
from mpslice.slices import SliceSize
from planner.model.constraints import Resources
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.pods import Pod, SliceClaim
from planner.model.snapshot import Snapshot

LOADS: Final = (0.8, 0.9, 1.0, 1.3)
_GIB: Final = 1024  # MiB
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)

# What 1000 pods of a share ask for besides: gpu_milli, pods, then (part, cores, GiB) of these.
_SHARES: Final = (
    (810, 2436, ((1.0, 3.2, 5.6),)),
    (470, 1723, ((0.51, 12.0, 46.0), (0.49, 8.0, 30.0))),
    (320, 800, ((0.70, 4.0, 22.0), (0.22, 8.0, 28.0), (0.08, 1.0, 2.0))),
    (650, 572, ((0.93, 12.0, 46.0), (0.07, 7.0, 26.0))),
    (230, 337, ((0.84, 4.0, 27.0), (0.16, 8.0, 30.0))),
    (460, 304, ((0.92, 6.0, 10.5), (0.08, 11.0, 20.0))),
    (590, 180, ((1.0, 3.2, 5.6),)),
    (160, 154, ((0.75, 4.0, 15.0), (0.25, 6.0, 23.0))),
    (550, 143, ((1.0, 4.2, 10.5),)),
    (220, 141, ((0.61, 4.0, 24.0), (0.39, 8.0, 25.0))),
    (370, 111, ((1.0, 4.1, 10.5),)),
    (110, 58, ((0.69, 4.0, 18.0), (0.31, 7.0, 27.0))),
    (480, 40, ((1.0, 4.0, 22.5),)),
    (350, 19, ((1.0, 4.0, 22.5),)),
    (330, 16, ((1.0, 4.0, 22.5),)),
    (50, 14, ((1.0, 6.0, 22.5),)),
    (270, 9, ((1.0, 4.2, 10.5),)),
    (290, 3, ((1.0, 1.0, 2.0),)),
    (440, 3, ((1.0, 8.0, 30.0),)),
    (140, 1, ((1.0, 1.0, 2.0),)),
)
# Nodes, cores, GiB, GPUs of a node, gb of a GPU.
_NODES: Final = (
    (549, 96, 384, 8, 19),
    (387, 104, 512, 2, 14),
    (107, 16, 120, 2, 15),
    (39, 128, 768, 8, 29),
    (28, 32, 128, 4, 15),
    (22, 64, 256, 2, 15),
    (21, 96, 768, 8, 31),
    (22, 8, 32, 1, 15),
    (17, 96, 384, 4, 14),
    (9, 48, 368, 4, 31),
    (8, 64, 256, 8, 15),
    (2, 8, 60, 2, 15),
    (2, 128, 1024, 1, 22),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one pod of the trace asks for: thousandths of a GPU and of a core, MiB of memory."""

    gpu_milli: int
    cpu_milli: int
    memory_mib: int

    def gb(self, reference: int) -> int:
        """The slice it takes if its share is one of a GPU of `reference` gb; rounded up."""
        return -(-self.gpu_milli * reference // 1000)


@dataclass(frozen=True, slots=True)
class Machine:
    """One node: thousandths of a core, MiB, GPUs and the gb of each."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gb: int


def data_folder() -> Path | None:
    """Where the trace's tables lie, or None: MPSLICE_BENCH_DATA, else ../shared/data."""
    named = os.environ.get("MPSLICE_BENCH_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if (folder / "openb_gpushare100_slices.csv").exists() else None


@cache
def asks(folder: Path | None) -> tuple[Ask, ...]:
    """Every GPU-sharing pod of the trace, or as many generated ones."""
    if folder is None:
        return tuple(_generated_asks())
    with (folder / "openb_gpushare100_slices.csv").open(newline="") as file:
        return tuple(
            Ask(int(row["gpu_milli"]), int(row["cpu_milli"]), int(row["memory_mib"]))
            for row in csv.DictReader(file)
        )


def _generated_asks() -> Iterator[Ask]:
    for gpu_milli, pods, parts in _SHARES:
        for part, cores, gib in parts:
            ask = Ask(gpu_milli, round(cores * 1000), round(gib * _GIB))
            yield from (ask for _ in range(round(pods * part)))


def openb_fleet(folder: Path | None) -> tuple[Machine, ...]:
    """The trace's 1,213 nodes with GPUs, 6,212 GPUs of 14 to 31 gb."""
    if folder is None:
        return tuple(
            Machine(cores * 1000, gib * _GIB, gpus, gb)
            for count, cores, gib, gpus, gb in _NODES
            for _ in range(count)
        )
    with (folder / "openb_gpu_nodes_mem.csv").open(newline="") as file:
        return tuple(
            Machine(
                int(row["cpu_milli"]),
                int(row["memory_mib"]),
                int(row["gpu"]),
                int(row["gpu_mem_gb_floor"]),
            )
            for row in csv.DictReader(file)
        )


def homogeneous_fleet(gpus: int) -> tuple[Machine, ...]:
    """Nodes of 8 GPUs of 80 gb with 128 cores and 1 TiB."""
    return tuple(Machine(128_000, 1024 * _GIB, 8, 80) for _ in range(gpus // 8))


def empty_cluster(fleet: Sequence[Machine]) -> Snapshot:
    """The fleet with nothing on it."""
    return Snapshot(tuple(node_state(number, machine) for number, machine in enumerate(fleet)))


def node_state(number: int, machine: Machine) -> NodeState:
    """An empty node; `number` gives its name."""
    name = f"n{number:05}"
    room = Resources(machine.cpu_milli, machine.memory_mib * MIB)
    gpus = tuple(Gpu(GpuUuid(f"{name}-{i}"), i, machine.gb) for i in range(machine.gpus))
    return NodeState(Node(name, allocatable=room), gpus, room)


def arrivals(
    drawn: Sequence[Ask], reference: int, total_gb: float, dice: random.Random
) -> list[Pod]:
    """Pods drawn with replacement until they ask for `total_gb`; each a second after the other."""
    pods: list[Pod] = []
    asked = 0
    while asked < total_gb:
        ask = dice.choice(drawn)
        asked += ask.gb(reference)
        pods.append(pod_of(ask, reference, len(pods)))
    return pods


def pod_of(ask: Ask, reference: int, number: int, priority: int = 0) -> Pod:
    """A pod of one slice; `number` gives its name and its place in the queue."""
    created = (_START + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Pod(
        "bench",
        f"p{number:05}",
        uid=f"p{number:05}",
        created=created,
        priority=priority,
        claims=(SliceClaim("main", SliceSize(ask.gb(reference)), 0),),
        requests=Resources(ask.cpu_milli, ask.memory_mib * MIB),
    )


def plain_pod(gb: int, number: int) -> Pod:
    """A pod that asks for nothing but a slice."""
    return replace(pod_of(Ask(gb, 0, 0), 1000, number), requests=Resources())


def case(nodes: int, gpus: int, gb: int) -> Snapshot:
    """A cluster of like nodes with CPU and memory to spare."""
    return empty_cluster([Machine(10**6, 10**6, gpus, gb)] * nodes)


def capacity_gb(snapshot: Snapshot) -> int:
    """The gb of all GPUs together."""
    return sum(gpu.capacity for state in snapshot.nodes for gpu in state.gpus)


def asked_gb(pods: Sequence[Pod]) -> int:
    """The gb of all slices that the pods ask for."""
    return sum(sum(pod.seats) for pod in pods)


@dataclass(frozen=True, slots=True)
class Instance:
    """One problem: an empty cluster and the pods for it, in the order in which they came."""

    fleet: str
    load: float
    seed: int
    snapshot: Snapshot
    pods: tuple[Pod, ...]


FLEETS: Final = {"hom80": 80, "openb": 16}
"""Each fleet and the gb of the GPU that a share of its pods is one of."""


@cache
def _cluster(fleet: str, gpus: int, folder: Path | None) -> Snapshot:
    return empty_cluster(homogeneous_fleet(gpus) if fleet == "hom80" else openb_fleet(folder))


def instance(fleet: str, load: float, seed: int, gpus: int = 1000) -> Instance:
    """A cluster (`gpus` of them for hom80) and pods for `load` times its memory."""
    folder = data_folder()
    cluster = _cluster(fleet, gpus, folder)
    dice = random.Random(seed)
    total = load * capacity_gb(cluster)
    pods = arrivals(asks(folder), FLEETS[fleet], total, dice)
    return Instance(fleet, load, seed, cluster, tuple(pods))
