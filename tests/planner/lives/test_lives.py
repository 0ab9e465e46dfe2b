"""A few hundred lives; thousands are lived by `python -m tests.planner.lives --seeds 20000`."""

from collections import Counter

import pytest

from tests.planner.lives.many import live

_LIVES = 240
_AT_ONCE = 20
_BROKEN = (5229, 6489, 51407, 102544, 104968, 111471, 123188, 123240, 123798)
"""Lives that broke an invariant once."""


@pytest.mark.parametrize("first", range(0, _LIVES, _AT_ONCE))
def test_no_invariant_is_broken(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        _is_sound(seed)


@pytest.mark.parametrize("seed", _BROKEN)
def test_no_invariant_is_broken_again(seed: int) -> None:
    _is_sound(seed)


@pytest.mark.parametrize("first", range(0, _LIVES // 6, _AT_ONCE))
def test_no_invariant_is_broken_where_pods_preempt_others(first: int) -> None:
    """What is evicted is made anew at once, as controllers do, and evicts nobody back."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + _AT_ONCE):
        seen.update(_is_sound(seed, "--preemption", preemption=True))
    assert seen["evictions"]


@pytest.mark.parametrize("first", range(0, _LIVES // 6, _AT_ONCE))
def test_no_invariant_is_broken_where_groups_are_spread_over_gpus(first: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, first + _AT_ONCE):
        seen.update(_is_sound(seed, "--spread", spread=True))
    assert seen["spread groups with two placed"]


def test_group_to_be_spread_keeps_its_place_while_an_agent_is_away() -> None:
    _is_sound(299, "--spread", spread=True)


def test_older_peer_keeps_its_place_beside_a_pod_that_preempts() -> None:
    _is_sound(1803, "--preemption", preemption=True)


def _is_sound(seed: int, *flags: str, **options: bool) -> Counter[str]:
    outcome = live(seed, **options)
    again = " ".join(("python -m tests.planner.lives --seed", str(seed), *flags))
    assert not outcome.problems, f"{outcome.problems[0]}\nReplay it: {again}"
    return outcome.seen


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
