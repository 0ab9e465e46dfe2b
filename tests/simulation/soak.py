"""Pods by the hundred thousand in one process: what they leave behind in memory and descriptors.

`python -m tests.simulation.soak --lives 100000` is `make soak`. Planner, agents, admission and
kubelets live through all of it, with watches cut and versions expired on the way.
"""

import argparse
import asyncio
import gc
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.simulation.clock import Clock, virtual_time
from tests.simulation.script import Arrival, Kind, Script, Trouble
from tests.simulation.stream import Stream

GROWTH: Final = 0.03
"""The share by which memory may grow over the last half: what the allocator's pages make of it."""

_NODES: Final = ((80, 40), (80,))
_RATE: Final = 1.0  # pods a second
_LIFE: Final = (0.5, 15.5)  # seconds; so two thirds of the GPUs' memory are used
_SIZES: Final = (5, 10, 10, 20, 20, 40)
_TROUBLES: Final = (Kind.CUT, Kind.EXPIRED, Kind.SLOW, Kind.DOUBLED, Kind.BUSY)
_TROUBLE_EACH: Final = 400  # lives
_DECILES: Final = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """After so many lives; `seconds` on the wall clock, since the one before."""

    lives: int
    seconds: float
    rss_kib: int
    descriptors: int


def sample(lives: int, seconds: float) -> Sample:
    """Of this process, once what can be collected is."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rss = pages * os.sysconf("SC_PAGE_SIZE") // 1024
    return Sample(lives, seconds, rss, len(os.listdir("/proc/self/fd")))


def growth(samples: Sequence[Sample]) -> list[str]:
    """What has grown over the last half of the samples, in sentences."""
    middle, last = samples[(len(samples) - 1) // 2], samples[-1]
    found = []
    if last.rss_kib > middle.rss_kib * (1 + GROWTH):
        share = last.rss_kib / middle.rss_kib - 1
        found.append(f"memory has grown by {share:.1%} over the last half")
    if last.descriptors > middle.descriptors:
        found.append(
            f"descriptors: {middle.descriptors} in the middle, {last.descriptors} at the end"
        )
    return found


class Soak(Stream):
    """Pods that come and go at a steady rate."""

    def __init__(self, lives: int, tell: Callable[[Sample], None], seed: int, clock: Clock) -> None:
        super().__init__(Script(seed, _NODES, (), ()), clock, None)
        self.samples: list[Sample] = []
        self._lives = lives
        self._sampled = tell
        self._stream = random.Random(seed + 2)
        self._since = time.perf_counter()
        self._all_ended = asyncio.Event()

    def lifetime(self, pod: str) -> float:
        return random.Random(pod).uniform(*_LIFE)

    def _delete(self, name: tuple[str, str]) -> None:
        super()._delete(name)
        if self.ended * _DECILES // self._lives > len(self.samples):
            now = time.perf_counter()
            self.samples.append(sample(self.ended, now - self._since))
            self._sampled(self.samples[-1])
            self._since = time.perf_counter()
        if self.ended == self._lives:
            self._all_ended.set()

    async def _happen(self) -> None:
        dice = self._stream
        for number in range(self._lives):
            await asyncio.sleep(dice.expovariate(_RATE))
            self.create(Arrival(0.0, f"p{number}", (dice.choice(_SIZES),), 0.0))
            if number % _TROUBLE_EACH == _TROUBLE_EACH - 1:
                self.begin(Trouble(self.clock.passed, dice.choice(_TROUBLES), 1.0))
        await self._all_ended.wait()


def soak(
    lives: int, tell: Callable[[Sample], None] = lambda _sample: None, seed: int = 1
) -> tuple[list[Sample], list[str]]:
    """The samples by decile, of which each is told when it is taken; and what is wrong."""
    clock = Clock()
    disabled = logging.root.manager.disable
    logging.disable()
    with virtual_time(clock, seed) as loop:
        run = Soak(lives, tell, seed, clock)
        loop.run_until_complete(run.play())
    logging.disable(disabled)
    return run.samples, run.outcome.problems or growth(run.samples)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when an invariant was broken, or something has grown."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.soak", description=__doc__)
    parser.add_argument("--lives", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print("  lives  seconds   RSS MiB  descriptors")

    def tell(taken: Sample) -> None:
        mib = taken.rss_kib / 1024
        line = f"{taken.lives:7} {taken.seconds:8.1f} {mib:9.1f} {taken.descriptors:12}"
        print(line, flush=True)

    samples, problems = soak(options.lives, tell, options.seed)
    seconds = sum(each.seconds for each in samples)
    print(f"{options.lives} lives in {seconds:.0f} s")
    print("\n".join(problems) or "no invariant broken; nothing has grown over the last half")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
