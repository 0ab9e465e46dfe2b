"""`python -m benchmarks.steady_hour`: an hour of arrivals on full GPUs, in virtual time.

The real planner, agents and admission policy on a virtual clock and an API server in memory, so
the machine's speed plays no part: what is left unused is what packing and the steps from a pod's
end to the next one's binding leave. Lives are those of `benchmarks.cluster`, and so is the bound:
what of the pods that are there an omniscient packer could place on empty nodes.
"""

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.cluster.figures import Figures, beside_bound, spread
from benchmarks.cluster.load import Arrivals, Life, lives, steady
from benchmarks.cluster.samples import bound_gb
from benchmarks.cluster.surroundings import surroundings
from benchmarks.packing_instances import data_folder
from mpslice.kube.api import PODS
from tests.api.model import Entry
from tests.simulation.clock import Clock, virtual_time
from tests.simulation.script import Arrival, Script
from tests.simulation.stream import Stream

GPUS: Final = 8
GPU_GB: Final = 80
_CPU: Final = "128"
_FILLED: Final = 0.9  # of the pods that are there first have been bound before the hour begins
_SAMPLES: Final = 60  # moments of the hour at which the bound is worked out
_APART: Final = 0.02
"""Seconds between two of the pods that are there first: decisions take no virtual time, so each of
a thousand that came at once would be decided on a thousand times."""

_MOST_WRITES: Final = 1_000_000  # of a client in a second: thousands of pods may come at once


@dataclass(frozen=True, slots=True)
class Options:
    """Counts of nodes, pods a second, seconds of virtual time, a share of the GPUs' memory."""

    nodes: int = 1000
    rate: float = 1.0
    seconds: float = 3600.0
    load: float = 0.95
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; `live` are the lives of all pods that are there and have not ended."""

    used_gb: int
    live: tuple[Life, ...]


class Hour(Stream):
    """First pods that fill the GPUs, then those of the hour."""

    cpu = _CPU

    def __init__(
        self, options: Options, coming: Arrivals, clock: Clock, tell: Callable[[str], None]
    ) -> None:
        super().__init__(
            Script(options.seed, ((GPU_GB,) * GPUS,) * options.nodes, (), ()), clock, None
        )
        self.samples: list[Sample] = []
        self.waits: list[float] = []  # seconds from a pod's creation until it was bound
        self.bound_gb = 0  # of the pods of the hour, all together
        self._options, self._coming, self._told = options, coming, tell
        self._lives: dict[str, Life] = {}  # of the pods that are there, by key
        self._created: dict[str, float] = {}
        self._bound: set[str] = set()
        self._came = 0  # so many pods have been bound, those that have ended among them
        self._filled = asyncio.Event()
        self._begun = False
        self.network.most_writes = _MOST_WRITES

    def lifetime(self, pod: str) -> float:
        return self._lives[pod].seconds

    def _changed(self, plural: str, entry: Entry) -> None:
        super()._changed(plural, entry)
        if plural != PODS.plural:
            return
        key = "/".join(entry.name)
        if entry.new is None or entry.new["status"].get("phase") == "Succeeded":
            self._lives.pop(key, None)
            self._bound.discard(key)
        elif entry.new["spec"].get("nodeName") and key not in self._bound and key in self._lives:
            self._bound.add(key)
            self._came += 1
            if self._came >= _FILLED * len(self._coming.first):
                self._filled.set()
            if self._begun:
                self.bound_gb += self._lives[key].gb
                self.waits.append(self.clock.passed - self._created[key])

    async def _happen(self) -> None:
        for number, life in enumerate(self._coming.first):
            self._come(f"first-{number}", life)
            await asyncio.sleep(_APART)
        await self._filled.wait()
        self._told(f"{len(self._bound)} pods are bound at {self.clock.passed:.0f} s")
        self._begun = True
        sampling = asyncio.create_task(self._sample())
        began = self.clock.passed
        for number, (at, life) in enumerate(self._coming.later):
            await asyncio.sleep(began + at - self.clock.passed)
            self._come(f"later-{number}", life)
        await asyncio.sleep(began + self._options.seconds - self.clock.passed)
        sampling.cancel()

    def _come(self, name: str, life: Life) -> None:
        self._lives[f"default/{name}"] = life
        self._created[f"default/{name}"] = self.clock.passed
        self.create(Arrival(0.0, name, (life.gb,), life.seconds, cpu_milli=life.cpu_milli))

    async def _sample(self) -> None:
        while True:
            live = dict(self._lives)
            used = sum(live[key].gb for key in self._bound if key in live)
            self.samples.append(Sample(used, tuple(live.values())))
            if len(self.samples) % 10 == 0:
                share = len(self.samples) / _SAMPLES
                self._told(f"{share:.0%} of the hour, {len(live)} pods, {used} GB used")
            await asyncio.sleep(self._options.seconds / _SAMPLES)

    async def _recover(self) -> None:
        """The hour is all there is."""


def measure(options: Options, tell: Callable[[str], None]) -> Figures:
    """The figures; `problems` are broken invariants of the simulation."""
    capacity = options.nodes * GPUS * GPU_GB
    coming = steady(
        lives(data_folder(), GPU_GB),
        capacity_gb=capacity,
        load=options.load,
        rate=options.rate,
        seconds=options.seconds,
        dice=random.Random(options.seed),
    )
    clock = Clock()
    disabled = logging.root.manager.disable
    logging.disable()
    began = time.perf_counter()
    with virtual_time(clock, options.seed) as loop:
        run = Hour(options, coming, clock, tell)
        loop.run_until_complete(run.play())
    logging.disable(disabled)
    return {
        "nodes": options.nodes,
        "gpus": options.nodes * GPUS,
        "seconds": options.seconds,
        "pods": len(coming.first) + len(coming.later),
        "took_s": round(time.perf_counter() - began),
        "gpus_over_time": _over_time(run, options, capacity),
        "created_to_bound": spread(run.waits),
        "harm": {"failed kubelet admissions": sum(a.kubelet.refused for a in run.agents)},
        "problems": run.outcome.problems,
    }


def _over_time(run: Hour, options: Options, capacity: int) -> Figures:
    """Means over the hour, in percent of all GPU memory."""
    if not run.samples:
        return {}
    used = statistics.fmean(sample.used_gb for sample in run.samples)
    bound = statistics.fmean(
        bound_gb(
            options.nodes,
            GPUS,
            [replace(life, memory_mib=0) for life in sample.live],  # as the model's pods ask
        )
        for sample in run.samples
    )
    hands = run.bound_gb / options.seconds
    return {"samples": len(run.samples), **beside_bound(used, bound, hands, capacity)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 when an invariant was broken."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady_hour", description=__doc__)
    parser.add_argument("--nodes", type=int, default=default.nodes)
    parser.add_argument("--rate", type=float, default=default.rate, help="pods a second")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of virtual time")
    parser.add_argument("--load", type=float, default=default.load, help="of the GPUs' memory")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures as JSON")
    given = vars(parser.parse_args(arguments))
    save = given.pop("save")
    options = Options(**given)
    words = " ".join(
        f"--{name} {value}" for name, value in given.items() if value != getattr(default, name)
    )
    around = surroundings(f"python -m benchmarks.steady_hour {words}".strip())
    found = {**around, **measure(options, lambda line: print(line, file=sys.stderr, flush=True))}
    print(json.dumps({k: v for k, v in found.items() if k not in around}, indent=1))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
