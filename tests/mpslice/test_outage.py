"""When kube-scheduler follows the API server again after a time without it."""

import math

import pytest

from mpslice.kube.outage import Outage, catching_up, caught_up, with_start


def test_scheduler_may_follow_the_api_server_later_by_twice_the_time_of_an_outage() -> None:
    assert caught_up(Outage(100.0, 100.2)) == pytest.approx(104.2)
    assert caught_up(Outage(100.0, 110.0)) == pytest.approx(133.6)
    assert caught_up(Outage(100.0, 200.0)) == 262.0
    assert caught_up(Outage(100.0)) == math.inf


def test_time_before_the_start_may_have_been_an_outage_of_any_length() -> None:
    assert caught_up(with_start(100.0, None)) == 162.0


def test_outage_soon_after_the_start_may_have_begun_before_it() -> None:
    assert caught_up(with_start(100.0, Outage(101.0, 101.5))) == 163.5
    assert caught_up(with_start(100.0, Outage(101.0))) == math.inf


def test_outage_later_on_is_as_long_as_it_was_seen_to_be() -> None:
    later = Outage(300.0, 300.2)
    assert with_start(100.0, later) == later


def test_scheduler_catches_up_until_then_and_without_an_outage_never() -> None:
    assert not catching_up(90.0, None)
    assert catching_up(104.1, Outage(100.0, 100.2))
    assert not catching_up(104.3, Outage(100.0, 100.2))


def test_idle_watch_that_was_cut_is_an_outage_of_its_own_length() -> None:
    """However often that has happened: `begun` is the first time."""
    assert caught_up(Outage(100.0, 300.2, cut=300.0)) == pytest.approx(304.2)
    assert caught_up(with_start(100.0, Outage(120.0, 120.2, cut=120.0))) == 162.0
    assert caught_up(with_start(100.0, Outage(120.0, 180.2, cut=180.0))) == pytest.approx(184.2)
