"""What is done to the cluster, one after another, and what is noted of each part.

First pods that the scheduler alone binds, which is the baseline of the run; then a burst of pods
whose slices are to be carved; then pods that come and end at a steady rate on full GPUs; then pods
that nothing has room for.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from benchmarks.cluster.crowd import Crowd, Moments, plain_pod, slice_pod
from benchmarks.cluster.load import Life, lives, steady
from benchmarks.cluster.samples import Sample, stranded_gb, take
from benchmarks.cluster.stand import GPU_GB, Stand
from benchmarks.cluster.usage import Reading, Watch
from benchmarks.packing_instances import data_folder

PHASES: Final = ("burst", "steady", "unplaceable")

_STRANDED: Final = 10
"""Every so many samples the planner is asked for its metrics, a line for each GPU."""

_BURST_SHARE: Final = 0.6
"""A burst asks for so much of the GPUs at most: all of it fits."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done: counts of nodes and pods, pods a second, seconds."""

    nodes: int
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

    async def make(self, name: str, life: Life, *, forever: bool = False) -> None:
        """Makes one pod with a slice."""
        self.lives[name] = life
        body = slice_pod(name, life, forever=forever)
        self.accepted.append(await self.crowd.create(name, body, life.gb))

    async def all_bound(self, names: Sequence[str]) -> None:
        pods = self.crowd.pods
        await self.crowd.until(
            lambda: all(pods[name].bound or pods[name].ended for name in names),
            self.options.patience,
            "every pod is bound",
        )


async def everything(run: Run) -> None:
    """All parts that are wanted, in their order; the scheduler alone always is."""
    options = run.options
    dice = random.Random(options.seed)
    drawn = lives(data_folder(), GPU_GB)
    await run.note("scheduler alone", lambda: _baseline(run))
    if "burst" in options.phases:
        await run.note("burst", lambda: _burst(run, drawn, dice))
        await run.crowd.remove(*run.parts["burst"].pods)
    if "steady" in options.phases:
        await _steady(run, drawn, dice)
    if "unplaceable" in options.phases:
        await run.note("unplaceable", lambda: _unplaceable(run))


async def _baseline(run: Run) -> list[str]:
    """As many pods as the burst has, as fast, without slices."""
    names = [f"plain-{n}" for n in range(run.options.burst)]

    async def one(name: str) -> None:
        run.accepted.append(await run.crowd.create(name, plain_pod(name)))

    await asyncio.gather(*map(one, names))
    await run.all_bound(names)
    await run.crowd.remove(*names, grace_seconds=0)
    return names


async def _burst(run: Run, drawn: Sequence[Life], dice: random.Random) -> list[str]:
    chosen: list[Life] = []
    while len(chosen) < run.options.burst:
        life = dice.choice(drawn)
        if sum(each.gb for each in chosen) + life.gb > _BURST_SHARE * run.stand.capacity_gb:
            break
        chosen.append(life)
    names = [f"burst-{n}" for n in range(len(chosen))]
    pairs = zip(names, chosen, strict=True)
    await asyncio.gather(*(run.make(name, life, forever=True) for name, life in pairs))
    await run.all_bound(names)
    return names


async def _steady(run: Run, drawn: Sequence[Life], dice: random.Random) -> None:
    options = run.options
    coming = steady(
        drawn,
        capacity_gb=run.stand.capacity_gb,
        load=options.load,
        rate=options.rate,
        seconds=options.seconds,
        dice=dice,
    )

    async def fill() -> list[str]:
        names = [f"first-{n}" for n in range(len(coming.first))]
        pairs = zip(names, coming.first, strict=True)
        # They would have come over a long time: their lives begin when the run does.
        await asyncio.gather(*(run.make(name, life) for name, life in pairs))
        await run.crowd.until(
            lambda: sum(run.crowd.pods[n].bound is not None for n in names) >= 0.9 * len(names),
            options.patience,
            "the GPUs are filled",
        )
        return names

    await run.note("fill", fill)
    await run.note("steady", lambda: _come(run, coming.later))


async def _come(run: Run, later: Sequence[tuple[float, Life]]) -> list[str]:
    names: list[str] = []
    began = time.monotonic()
    making: list[asyncio.Task[None]] = []
    sampling = asyncio.create_task(_sample(run))
    try:
        for at, life in later:
            await asyncio.sleep(began + at - time.monotonic())
            name = f"later-{len(names)}"
            names.append(name)
            making.append(asyncio.create_task(run.make(name, life)))
        await asyncio.gather(*making)
    finally:
        sampling.cancel()
        await asyncio.wait({sampling})
    return names


async def _sample(run: Run) -> None:
    for number in count():
        stranded = float("nan")
        if number % _STRANDED == 0:
            stranded = await asyncio.to_thread(stranded_gb, run.stand.core.planner_ops)
        run.samples.append(take(run.crowd.pods, stranded))
        await asyncio.sleep(1.0)


async def _unplaceable(run: Run) -> list[str]:
    """Pods that come one after another, and of which none finds room."""
    options = run.options
    life = Life(options.waiting_gb, 100, 100, 0.0)
    names = [f"waiting-{n}" for n in range(options.waiting)]
    began = time.monotonic()
    making: list[asyncio.Task[None]] = []
    for number, name in enumerate(names):
        await asyncio.sleep(began + number / options.rate - time.monotonic())
        making.append(asyncio.create_task(run.make(name, life, forever=True)))
    await asyncio.gather(*making)
    pods = run.crowd.pods
    await run.crowd.until(
        lambda: all(pods[name].told or pods[name].bound for name in names),
        options.patience,
        "every pod is told why it waits",
    )
    return names
