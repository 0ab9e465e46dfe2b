"""What happens in a run: nodes, pods that arrive and troubles, all drawn from a seed beforehand.

A script is data, so that a part of it can be left out and the rest played again.
"""

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The troubles. Those of the API server are everybody's; the others have a target."""

    AWAY = "API server away"
    SLOW = "API server slow"
    BUSY = "API server answers 429"
    BROKEN = "API server answers 500"
    UNANSWERED = "answers to writes lost"
    CONFLICT = "objects change before a write"
    CUT = "watches cut"
    EXPIRED = "versions expired (410)"
    LATE = "watch events late"
    DOUBLED = "watch events doubled"
    LOST = "watch events lost until a list"
    PLANNER_KILLED = "planner killed"
    PLANNER_STOPPED = "planner stopped"
    PLANNER_AHEAD = "planner's clock ahead"
    PLANNER_BEHIND = "planner's clock behind"
    AGENT_KILLED = "agent killed"
    AGENT_STOPPED = "agent stopped"
    GPU_SICK = "GPU unhealthy"
    FORCED = "pods force-deleted"


_OF_PLANNERS = (
    Kind.PLANNER_KILLED,
    Kind.PLANNER_STOPPED,
    Kind.PLANNER_AHEAD,
    Kind.PLANNER_BEHIND,
)
_OF_NODES = (Kind.AGENT_KILLED, Kind.AGENT_STOPPED, Kind.GPU_SICK, Kind.FORCED)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pod: when it comes (seconds), its slices in gb, and how long it runs (seconds).

    One that is not `gated` is from before the webhook was there.
    """

    at: float
    name: str
    sizes: tuple[int, ...]
    seconds: float
    priority: int = 0
    node: str = ""
    cpu_milli: int = 100
    gated: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """`target` is a node's index or a planner's; it lasts `seconds` from `at` on."""

    at: float
    kind: Kind
    seconds: float
    target: int = 0

    def __str__(self) -> str:
        return f"{self.at:7.2f} s for {self.seconds:.1f} s: {self.kind} ({self.target})"


@dataclass(frozen=True, slots=True)
class Script:
    """`gpus` are the capacities in gb by node; with two `planners` one leads at a time."""

    seed: int
    gpus: tuple[tuple[int, ...], ...]
    arrivals: tuple[Arrival, ...]
    troubles: tuple[Trouble, ...]
    planners: int = 1

    @property
    def end(self) -> float:
        """When the last trouble is over and the last pod has come (seconds)."""
        ends = [t.at + t.seconds for t in self.troubles] + [a.at for a in self.arrivals]
        return max(ends, default=0.0)


def script_of(seed: int) -> Script:
    """The script of a seed: one run in six is without any trouble."""
    dice = random.Random(seed)
    gpus = tuple(
        tuple(dice.choice((40, 40, 80)) for _ in range(dice.choice((1, 1, 2))))
        for _ in range(dice.choice((1, 1, 2, 2, 3)))
    )
    planners = 2 if dice.random() < 0.15 else 1
    span = dice.choice((3.0, 15.0, 60.0))
    arrivals = tuple(_arrival(dice, number, span, gpus) for number in range(dice.randint(3, 10)))
    count = 0 if seed % 6 == 0 else dice.randint(1, 5)
    troubles = tuple(
        _trouble(dice, _moment(dice, arrivals, span), len(gpus), planners) for _ in range(count)
    )
    return Script(
        seed,
        gpus,
        tuple(sorted(arrivals, key=lambda arrival: arrival.at)),
        tuple(sorted(troubles, key=lambda trouble: trouble.at)),
        planners,
    )


def _arrival(
    dice: random.Random, number: int, span: float, gpus: tuple[tuple[int, ...], ...]
) -> Arrival:
    largest = max(max(each) for each in gpus)
    sizes = [size for size in (5, 10, 20, 20, 33, 40, 40, 80) if size <= largest]
    few = tuple(dice.choice((5, 10, 20)) for _ in range(2))
    chosen = few if dice.random() < 0.1 else (dice.choice(sizes),)
    node = ""
    if dice.random() < 0.15:
        index = dice.randrange(len(gpus))
        node = f"n{index}" if max(gpus[index]) >= max(chosen) else ""
    return Arrival(
        at=dice.uniform(0.0, span),
        name=f"p{number}",
        sizes=chosen,
        seconds=dice.choice((0.5, 2.0, 5.0, 20.0, 1e6)),
        priority=dice.choice((0, 0, 0, 0, 5)),
        node=node,
        cpu_milli=dice.choice((100, 100, 12_000)),
        gated=dice.random() < 0.8,
    )


def _moment(dice: random.Random, arrivals: tuple[Arrival, ...], span: float) -> float:
    """Any time, and more often shortly after something has begun to happen."""
    if dice.random() < 0.25:
        return dice.uniform(0.0, span)
    arrival = dice.choice(arrivals)
    begun = arrival.at + (arrival.seconds if dice.random() < 0.3 else 0.0)
    return min(begun, 2 * span) + dice.uniform(0.0, dice.choice((0.03, 0.1, 0.3, 1.5)))


def _trouble(dice: random.Random, at: float, nodes: int, planners: int) -> Trouble:
    kind = dice.choice(list(Kind))
    target = dice.randrange(planners if kind in _OF_PLANNERS else nodes)
    seconds = dice.choice((0.05, 0.5, 3.0, 12.0, 40.0))
    return Trouble(at, kind, seconds, target)
