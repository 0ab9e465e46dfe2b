"""A run of the benchmark: what is wanted of it, and what is noted of it, part by part."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.cluster.crowd import Crowd, Moments, plain_pod, slice_pod
from benchmarks.cluster.load import Life
from benchmarks.cluster.samples import Sample
from benchmarks.cluster.stand import GPU_GB, Stand
from benchmarks.cluster.usage import Reading, Watch

PHASES: Final = ("lone", "burst", "steady", "unplaceable")


FULL: Final = 0.9
"""Where pods ask for so much of the GPUs' memory not all of them fit at once."""

STEADY_FLOOR: Final = "scheduler alone, steady"
"""The part in which pods without slices come at the steady rate."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done: counts of nodes and pods, pods a second, seconds."""

    nodes: int
    lone: int = 20
    burst: int = 1000
    rate: float = 20.0
    seconds: float = 60.0
    load: float = 0.95
    waiting: int = 1000
    waiting_gb: int = GPU_GB
    seed: int = 1
    patience: float = 120.0
    """Seconds until a phase is left with what is still unbound then."""
    quiet: float = 2.0
    """Seconds after a phase in which what it has left to write is written."""
    phases: tuple[str, ...] = PHASES


@dataclass(frozen=True, slots=True)
class Part:
    """One phase: which pods were made in it, from when until when, and what it cost."""

    name: str
    pods: tuple[str, ...]
    began: float
    ended: float
    """Seconds since 1970, as in the audit log."""
    before: Reading
    after: Reading
    created_seconds: tuple[float, ...] = ()
    """How long the API server took to accept each pod, its admission included."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Run:
    """What was noted: the parts, and samples of the GPUs over time."""

    stand: Stand
    options: Options
    crowd: Crowd
    watch: Watch
    parts: dict[str, Part] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    lives: dict[str, Life] = field(default_factory=dict)
    accepted: list[float] = field(default_factory=list)

    def moments(self, part: str) -> list[Moments]:
        return [self.crowd.pods[name] for name in self.parts[part].pods]

    async def note(self, name: str, work: Callable[[], Awaitable[Iterable[str]]]) -> None:
        """Does a part and notes it."""
        self.accepted = []
        before, began = await asyncio.to_thread(self.watch.read), time.time()
        pods = tuple(await work())
        await asyncio.sleep(self.options.quiet)
        ended, after = time.time(), await asyncio.to_thread(self.watch.read)
        self.parts[name] = Part(name, pods, began, ended, before, after, tuple(self.accepted))

    async def make(self, name: str, life: Life, *, forever: bool = False, node: str = "") -> None:
        """Makes one pod with a slice, which has to come to `node` if that is given."""
        self.lives[name] = life
        body = slice_pod(name, life, forever=forever, node=node)
        self.accepted.append(await self.crowd.create(name, body, life.gb))

    async def make_plain(self, name: str) -> None:
        """Makes one pod that the scheduler alone binds."""
        self.accepted.append(await self.crowd.create(name, plain_pod(name)))

    async def all_bound(self, names: Sequence[str]) -> None:
        pods = self.crowd.pods
        await self.crowd.until(
            lambda: all(pods[name].bound or pods[name].ended for name in names),
            self.options.patience,
            "every pod is bound",
        )
