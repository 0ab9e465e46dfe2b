"""When kube-scheduler follows the API server again after a time without it."""

import math

import pytest

from mpslice.kube.outage import (
    Outage,
    OutageLog,
    Outages,
    catching_up,
    caught_up,
    is_blind,
    seconds_behind,
    with_start,
)


def behind_until(outages: Outages) -> float:
    return max(caught_up(outage) for outage in outages)


def failed(log: OutageLog, begun: float, ended: float) -> None:
    log.failed(begun)
    log.followed(ended)


def cut(log: OutageLog, begun: float, ended: float) -> None:
    log.cut(begun)
    log.followed(ended)


def test_scheduler_may_follow_the_api_server_later_by_twice_the_time_of_an_outage() -> None:
    assert caught_up(Outage(100.0, 100.2)) == pytest.approx(104.2)
    assert caught_up(Outage(100.0, 110.0)) == pytest.approx(133.6)
    assert caught_up(Outage(100.0, 200.0)) == 262.0
    assert caught_up(Outage(100.0)) == math.inf


def test_scheduler_catches_up_until_then_and_without_an_outage_never() -> None:
    assert not catching_up(90.0, ())
    assert catching_up(104.1, (Outage(100.0, 100.2),))
    assert not catching_up(104.3, (Outage(100.0, 100.2),))


def test_seconds_that_the_scheduler_may_lag_are_those_left_of_the_longest_or_none() -> None:
    over, short, lasting = Outage(0.0, 30.0), Outage(95.0, 96.0), Outage(90.0)
    assert seconds_behind(100.0, ()) == 0
    assert seconds_behind(1000.0, (over, short)) == 0
    assert seconds_behind(100.0, (over, short)) == pytest.approx(caught_up(short) - 100)
    assert seconds_behind(100.0, (short, lasting)) == pytest.approx(2 + 2 * 10 + 1.6)


def test_failure_within_two_minutes_after_an_outage_is_one_with_it() -> None:
    """client-go's delays begin anew after two minutes only."""
    log = OutageLog()
    failed(log, 0.0, 1.0)
    failed(log, 120.0, 121.0)
    assert log.newest == (Outage(0.0, 121.0),)
    failed(log, 242.0, 243.0)
    assert log.newest == (Outage(242.0, 243.0),)


def test_outage_lasts_until_a_list_works() -> None:
    log = OutageLog()
    for now in (10.0, 11.0, 13.0):
        log.failed(now)
    assert is_blind(log.newest)
    assert log.followed(17.0)
    assert log.newest == (Outage(10.0, 17.0),)
    assert not log.followed(18.0)


def test_idle_watch_that_is_cut_again_and_again_is_no_long_outage() -> None:
    """Proxies end idle connections, here every 35 seconds."""
    log = OutageLog()
    for begun in range(0, 700, 35):
        cut(log, begun, begun + 0.2)
        assert behind_until(log.newest) == pytest.approx(begun + 4.2)


def test_idle_cuts_make_an_outage_no_longer() -> None:
    log = OutageLog()
    failed(log, 100.0, 130.0)
    for begun in range(165, 500, 35):
        cut(log, begun, begun + 0.2)
        assert behind_until(log.newest) == pytest.approx(max(192.0, begun + 4.2))


def test_cut_watch_after_which_a_list_fails_was_the_beginning_of_an_outage() -> None:
    log = OutageLog()
    cut(log, 0.0, 0.2)
    log.cut(35.0)
    log.failed(35.2)
    log.followed(45.0)
    assert log.newest == (Outage(35.0, 45.0),)


def test_outage_goes_on_while_other_requests_are_not_answered() -> None:
    for now, ended in ((50.0, 50.0), (129.0, 129.0), (131.0, 20.0)):
        log = OutageLog()
        failed(log, 10.0, 20.0)
        log.unanswered(now)
        assert log.newest == (Outage(10.0, ended),)


def test_request_that_is_not_answered_makes_an_outage_of_an_idle_cut() -> None:
    log = OutageLog()
    for begun in range(0, 1000, 35):
        cut(log, begun, begun + 0.2)
    log.unanswered(1010.0)
    assert log.newest == (Outage(980.0, 1010.0),)


def test_request_that_is_not_answered_is_no_outage_of_its_own() -> None:
    log = OutageLog()
    log.unanswered(5.0)
    assert not log.newest


def test_unanswered_request_after_a_cut_forgets_no_longer_outage() -> None:
    log = OutageLog()
    failed(log, 0.0, 130.0)
    cut(log, 145.0, 145.2)
    log.unanswered(150.0)
    assert log.newest == (Outage(0.0, 150.0),)


def test_time_before_the_start_may_have_been_an_outage_of_any_length() -> None:
    assert behind_until(with_start(100.0, ())) == 162.0


def test_failure_soon_after_the_start_may_have_begun_before_it() -> None:
    assert behind_until(with_start(100.0, (Outage(101.0, 101.5),))) == 163.5
    assert behind_until(with_start(100.0, (Outage(101.0),))) == math.inf


def test_idle_cut_soon_after_the_start_hides_nothing_of_what_was_before() -> None:
    lasting, over = Outage(120.0, idle=True), Outage(120.0, 120.2, idle=True)
    assert with_start(100.0, (lasting,))[0] == Outage(-math.inf, 100.0)
    assert behind_until(with_start(100.0, (over,))) == 162.0


def test_outage_later_on_is_as_long_as_it_was_seen_to_be() -> None:
    later = Outage(300.0, 300.2)
    assert with_start(100.0, (later,))[1:] == (later,)
