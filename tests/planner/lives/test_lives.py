"""A few hundred lives; thousands are lived by `python -m tests.planner.lives --seeds 20000`."""

from collections import Counter

import pytest

from tests.planner.lives.many import live

_LIVES = 240
_AT_ONCE = 20
_BROKEN = (5229, 51407)
"""Lives that broke an invariant once."""


@pytest.mark.parametrize("first", range(0, _LIVES, _AT_ONCE))
def test_no_invariant_is_broken(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        _is_sound(seed)


@pytest.mark.parametrize("seed", _BROKEN)
def test_no_invariant_is_broken_again(seed: int) -> None:
    _is_sound(seed)


def _is_sound(seed: int) -> None:
    outcome = live(seed)
    again = f"python -m tests.planner.lives --seed {seed}"
    assert not outcome.problems, f"{outcome.problems[0]}\nReplay it: {again}"


def test_lives_reach_every_step_that_pods_can_take() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        seen.update(live(seed).seen)
    steps = {
        "Pending -> Carving",
        "Carving -> Offered",
        "Carving -> Pending",
        "Offered -> Backoff",
        "Offered -> Pending",
        "Backoff -> Pending",
    }
    assert not {step for step in steps if not seen[step]}
