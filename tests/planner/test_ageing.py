"""The timer for pods that have waited: never late, and silent when nothing is to come."""

from datetime import UTC, datetime, timedelta

import pytest

from planner.ageing import seconds_to_change
from planner.model import Pod
from planner.packing.order import AGED, RESERVES

NOW = datetime(2026, 3, 1, 12, 0, 0, 500_000, UTC)


def born(ago: timedelta) -> Pod:
    return Pod("default", "p", created=(NOW - ago).strftime("%Y-%m-%dT%H:%M:%SZ"))


@pytest.mark.parametrize(
    ("ago", "seconds"),
    [
        (timedelta(seconds=0), 299.5),
        (timedelta(minutes=4, seconds=59), 0.5),
        (AGED, RESERVES.total_seconds() - 0.5),
        (AGED + RESERVES - timedelta(seconds=3), 2.5),
        (AGED + RESERVES, None),
        (timedelta(days=3), None),
    ],
)
def test_next_change_is_when_a_pod_ages_or_its_reservation_ends(
    ago: timedelta, seconds: float | None
) -> None:
    assert seconds_to_change([born(ago)], NOW) == (
        None if seconds is None else pytest.approx(seconds)
    )


def test_earliest_change_of_all_counts() -> None:
    pods = [born(timedelta(minutes=minutes)) for minutes in (1, 3, 19, 40)]
    assert seconds_to_change(pods, NOW) == pytest.approx(59.5)


def test_without_pods_nothing_is_to_come() -> None:
    assert seconds_to_change([], NOW) is None
    assert seconds_to_change([Pod("default", "p")], NOW) is None
