"""What happens in a run: pods that arrive and faults at moments, all drawn from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.faults.faults import FAULTS, Fault


class Moment(StrEnum):
    """What has just happened when a fault begins."""

    ANY = "any time"
    MADE = "a pod is made"
    ORDERED = "slices are ordered"
    CARVED = "slices stand"
    UNGATED = "a gate is gone"
    BOUND = "a pod is bound"
    RUNS = "a pod runs"
    ENDED = "a pod has ended"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pod: when it comes (seconds), its slice in gb, how long it runs (None: until deleted)."""

    at: float
    gb: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that begins `delay` seconds after the first `moment` from second `at` on."""

    at: float
    moment: Moment
    delay: float
    fault: Fault
    seconds: float
    target: int

    def __str__(self) -> str:
        when = f"from {self.at:.1f} s on, {self.delay * 1000:.0f} ms after {self.moment}"
        return f"{self.fault.name} ({self.target}) for {self.seconds:g} s; {when}"


@dataclass(frozen=True, slots=True)
class Script:
    """A third of the seeds has one fault, by which its recovery is timed."""

    seed: int
    arrivals: tuple[Arrival, ...]
    hits: tuple[Hit, ...]


_SPAN: Final = 6.0  # seconds in which pods come and faults begin
_SIZES: Final = (5, 10, 10, 20, 20, 40)
_LIVES: Final = (0.5, 2.0, 4.0, 8.0, None, None)


def script_of(seed: int) -> Script:
    """The script of a seed. Faults take turns, so that a row of seeds has each of them."""
    dice = random.Random(seed)
    first = FAULTS[seed % len(FAULTS)]
    rest = [fault for fault in FAULTS if fault is not first]
    others = dice.sample(rest, 0 if seed % 3 == 0 else dice.randint(1, 3))
    return Script(seed, _arrivals(dice), _hits(dice, (first, *others)))


def scripts_of_all(count: int, seed: int) -> tuple[Script, ...]:
    """So many scripts that have each fault once."""
    dice = random.Random(seed)
    shuffled = dice.sample(FAULTS, len(FAULTS))
    parts = [shuffled[number::count] for number in range(count)]
    return tuple(Script(seed, _arrivals(dice), _hits(dice, part)) for part in parts)


def _arrivals(dice: random.Random) -> tuple[Arrival, ...]:
    count = dice.randint(8, 14)
    made = (
        Arrival(dice.uniform(0.0, _SPAN), dice.choice(_SIZES), dice.choice(_LIVES))
        for _ in range(count)
    )
    return tuple(sorted(made, key=lambda each: each.at))


def _hits(dice: random.Random, faults: Sequence[Fault]) -> tuple[Hit, ...]:
    made = (
        Hit(
            at=dice.uniform(0.0, _SPAN),
            moment=dice.choice(list(Moment)),
            delay=dice.choice((0.0, 0.0, 0.01, 0.05, 0.3)),
            fault=fault,
            seconds=dice.choice(fault.seconds),
            target=dice.randrange(2),
        )
        for fault in faults
    )
    return tuple(sorted(made, key=lambda each: each.at))
