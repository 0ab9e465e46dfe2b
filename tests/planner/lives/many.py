"""A seed's kind of life, and what came of it."""

import random
import traceback
from collections import Counter
from dataclasses import dataclass, replace

from tests.planner.lives.invariants import Judge
from tests.planner.lives.life import Kind, Life


@dataclass(frozen=True, slots=True)
class Outcome:
    """`problems` are broken invariants, `seen` is what was covered."""

    seed: int
    problems: tuple[str, ...]
    seen: Counter[str]


def kind_of(seed: int) -> Kind:
    """A third of the lives is without any fault; the others have one kind of them or several."""
    dice = random.Random(-seed - 1)  # a test's
    clears = dice.random() < 0.5
    restarts = dice.random() < 0.3
    if seed % 3 == 0:
        return Kind(clears=clears, restarts=restarts)
    some = [dice.random() < 0.4 for _ in range(4)]
    return Kind(
        broken=some[0],
        faults=some[1],
        denied=some[2],
        held=some[3],
        clears=clears,
        restarts=restarts,
        calm=dice.choice((0.2, 0.5, 0.9)),
    )


def live(
    seed: int, *, tell: bool = False, preemption: bool = False, spread: bool = False
) -> Outcome:
    """Lives it; an exception is a broken invariant, too."""
    kind = replace(kind_of(seed), preemption=preemption, spread=spread)
    life = Life(seed, kind, Judge())
    if preemption and seed % 2:
        life.world.budget = seed % 5
    if tell:
        print(kind)
        life.tell = print
    try:
        life.run()
    except Exception:  # noqa: BLE001  # whatever it is, its seed is to be told
        life.problem(traceback.format_exc())
    return Outcome(seed, tuple(life.problems), life.seen)
