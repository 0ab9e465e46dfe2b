"""A short soak, and that growth is found; `make soak` is a hundred thousand lives."""

from collections.abc import Callable

import pytest

from planner.controller import Controller
from tests.simulation.soak import Sample, growth, soak

_LIVES = 200


def samples_of(memory: Callable[[int], int], descriptors: Callable[[int], int]) -> list[Sample]:
    return [Sample(n * 100, 1.0, memory(n), descriptors(n)) for n in range(1, 11)]


def test_pods_come_and_go_and_leave_no_descriptor() -> None:
    samples, problems = soak(_LIVES)
    assert [each.lives for each in samples] == list(range(20, _LIVES + 1, 20))
    assert not [each for each in problems if "memory" not in each]  # so few lives warm it up


def test_soak_tells_a_broken_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as no planner should")

    monkeypatch.setattr(Controller, "_act", fail)
    _, problems = soak(_LIVES)
    assert "as no planner should" in problems[0]


def test_growth_of_the_first_half_is_no_finding() -> None:
    assert not growth(samples_of(lambda n: 100_000 + 20_000 * min(n, 5), lambda n: min(n, 5)))


def test_memory_that_grows_to_the_end_is_found() -> None:
    (found,) = growth(samples_of(lambda n: 100_000 + 1_000 * n, lambda _: 7))
    assert found == "memory has grown by 4.8% over the last half"


def test_one_descriptor_too_many_is_found() -> None:
    (found,) = growth(samples_of(lambda _: 100_000, lambda n: 6 + n // 10))
    assert found == "descriptors: 6 in the middle, 7 at the end"
