"""A lone pod is planned at once; a burst together, after it was idle or lasted long enough."""

import pytest

from planner.batch import Batch


class Moment(float):
    """A time that counts how often another is taken from it."""

    taken = 0

    def __sub__(self, other: float) -> float:
        Moment.taken += 1
        return float(self) - other


def test_lone_pod_is_not_held() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    batch.arrive("a", 0.0)
    assert batch.held == frozenset()
    assert batch.due() is None


def test_rest_of_a_burst_waits_until_it_was_idle() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    for number in range(5):
        batch.arrive(f"p{number}", number * 0.1)
    assert batch.held == {"p1", "p2", "p3", "p4"}
    assert batch.due() == pytest.approx(0.6)
    batch.release()
    assert batch.held == frozenset()


def test_burst_without_end_is_planned_after_the_longest_time() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    for number in range(30):
        batch.arrive(f"p{number}", number * 0.1)
    assert batch.due() == pytest.approx(2.1)


def come(batch: Batch, name: str, since: float, count: int = 30) -> None:
    """Ten pods a second."""
    for number in range(count):
        batch.arrive(f"{name}-{number}", since + number / 10)


def a_stream(*, until: float) -> Batch:
    """Ten pods a second; what is due is planned."""
    batch = Batch(idle=0.2, longest=2.0)
    for number in range(round(until * 10)):
        due = batch.due()
        if due is not None and due <= number / 10:
            batch.release()
        batch.arrive(f"p{number}", number / 10)
    return batch


def test_what_goes_on_for_longer_than_a_burst_is_planned_four_times_as_often() -> None:
    batch = a_stream(until=2.2)
    assert batch.holds("p21")
    come(batch, "next", 2.2)
    assert batch.due() == pytest.approx(2.6)


def test_bursts_that_follow_one_another_at_a_distance_are_no_stream() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    for burst in range(3):
        come(batch, f"{burst}", 1.5 * burst, 5)
        assert batch.due() == pytest.approx(1.5 * burst + 0.6)
        batch.release()
    come(batch, "next", 4.5)
    assert batch.due() == pytest.approx(6.6)


def test_burst_after_a_stream_that_has_paused_is_planned_as_a_burst() -> None:
    batch = a_stream(until=4.0)
    batch.release()
    come(batch, "later", 5.0)
    assert batch.due() == pytest.approx(7.1)


def test_batch_that_is_released_late_makes_no_stream_of_what_comes_later() -> None:
    """The planner was busy, or another replica led."""
    batch = Batch(idle=0.2, longest=2.0)
    for at in (0.0, 0.05, 3600.0):
        batch.arrive(f"p-{at}", at)
    batch.release()
    come(batch, "next", 3600.1)
    assert batch.due() == pytest.approx(3602.1)


def test_group_in_a_stream_is_planned_as_a_burst() -> None:
    batch = a_stream(until=2.2)
    batch.release()
    batch.arrive("g0", 2.2, grouped=True)
    come(batch, "other", 2.3)
    assert batch.due() == pytest.approx(4.2)
    batch.release()
    come(batch, "next", 5.3)
    assert batch.due() == pytest.approx(5.8)


def test_longest_time_that_is_shorter_than_the_idle_time_holds() -> None:
    batch = Batch(idle=0.2, longest=0.1)
    batch.arrive("a", 0.0)
    batch.arrive("b", 0.04)
    assert batch.due() == pytest.approx(0.14)


def test_pod_after_one_that_is_bound_already_is_alone_again() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    batch.arrive("a", 0.0)
    batch.leave("a")
    batch.arrive("b", 0.05)
    assert batch.held == frozenset()


def test_pod_that_waits_for_room_does_not_make_later_ones_a_burst() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    batch.arrive("stuck", 0.0)
    batch.arrive("b", 10.0)
    assert batch.held == frozenset()


def test_zero_idle_holds_nothing() -> None:
    batch = Batch(idle=0.0, longest=2.0)
    batch.arrive("a", 0.0)
    batch.arrive("b", 0.0)
    assert batch.held == frozenset()


def test_pod_of_a_group_waits_for_the_others_from_the_first_on() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    batch.arrive("g0", 0.0, grouped=True)
    assert batch.held == {"g0"}
    batch.arrive("g1", 0.1, grouped=True)
    assert batch.due() == pytest.approx(0.3)


def test_pod_that_comes_again_counts_from_then() -> None:
    batch = Batch(idle=0.2, longest=2.0)
    batch.arrive("a", 0.0)
    batch.arrive("b", 0.1)
    batch.arrive("a", 0.15)
    batch.release()
    batch.arrive("c", 0.32)
    assert batch.holds("c")  # "a" came less than 0.2 ago


def test_arrival_is_compared_with_no_more_pods_than_are_forgotten_for_it() -> None:
    """A new leader lists ten thousand pods in one go."""
    batch = Batch(idle=0.2, longest=2.0)
    Moment.taken = 0
    for number in range(1000):
        batch.arrive(f"p{number}", Moment(0.0))
    for number in range(1000):
        batch.arrive(f"q{number}", Moment(1.0))
    assert Moment.taken < 4000
    assert not batch.holds("p0")
    assert batch.holds("p1")
