"""Which pods come, when, and how long they run: the openb trace, or a law like it. Seeded.

The trace has months, a run has minutes: lifetimes are divided by one factor, so that pods that come
at the wanted rate fill the wanted share of the GPUs.
"""

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.packing_instances import Ask, asks

_MEDIAN: Final = 435.0  # seconds, and the spread of the logarithm, of the trace's lifetimes
_SIGMA: Final = 1.94
_DAY: Final = 86_400.0
"""A longer life counts as a day: 1 pod in 100 lives longer, and they would be half the load."""

_SHORTEST: Final = 1.0


@dataclass(frozen=True, slots=True)
class Life:
    """One pod: what it asks for, and for how many seconds it runs."""

    gb: int
    cpu_milli: int
    memory_mib: int
    seconds: float

    @property
    def gb_seconds(self) -> float:
        return self.gb * self.seconds


@cache
def lives(folder: Path | None, reference: int) -> tuple[Life, ...]:
    """Every pod of the trace, or as many by the law; `reference` is the gb of a whole GPU."""
    if folder is None:
        dice = random.Random(0)
        spans = (dice.lognormvariate(math.log(_MEDIAN), _SIGMA) for _ in iter(int, 1))
        return tuple(
            _life(ask, reference, span) for ask, span in zip(asks(None), spans, strict=False)
        )
    with (folder / "openb_gpushare100_slices.csv").open(newline="") as file:
        return tuple(
            _life(
                Ask(int(row["gpu_milli"]), int(row["cpu_milli"]), int(row["memory_mib"])),
                reference,
                float(row["deletion_time"]) - float(row["creation_time"]),
            )
            for row in csv.DictReader(file)
        )


def _life(ask: Ask, reference: int, seconds: float) -> Life:
    within = min(max(seconds, _SHORTEST), _DAY)
    return Life(ask.gb(reference), ask.cpu_milli, ask.memory_mib, within)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """`first` are there when the run begins; the others come at these seconds after."""

    first: tuple[Life, ...]
    later: tuple[tuple[float, Life], ...]


def steady(
    drawn: Sequence[Life],
    *,
    capacity_gb: float,
    load: float,
    rate: float,
    seconds: float,
    dice: random.Random,
) -> Arrivals:
    """Pods that come `rate` a second and ask for `load` of the capacity all the time.

    So that it is so from the beginning, `first` are those that would be there by then: a pod is one
    of them the sooner the longer it lives, and has a part of its life before it.
    """
    mean = sum(life.gb_seconds for life in drawn) / len(drawn)
    factor = load * capacity_gb / (rate * mean)
    scaled = [replace(life, seconds=life.seconds * factor) for life in drawn]
    spans = [life.seconds for life in scaled]
    first: list[Life] = []
    asked = 0
    while asked < load * capacity_gb:
        (life,) = dice.choices(scaled, weights=spans)
        first.append(replace(life, seconds=life.seconds * dice.random()))
        asked += life.gb
    later: list[tuple[float, Life]] = []
    at = dice.expovariate(rate)
    while at < seconds:
        later.append((at, dice.choice(scaled)))
        at += dice.expovariate(rate)
    return Arrivals(tuple(first), tuple(later))
