"""The timer for pods that have waited: never late, and silent when nothing is to come."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from planner.ageing import next_change
from planner.model.pods import Pod
from planner.packing.order import AGED, RESERVES

NOW = datetime(2026, 3, 1, 12, 0, 0, 500_000, UTC)


def born(ago: timedelta) -> Pod:
    return Pod("default", "p", created=(NOW - ago).strftime("%Y-%m-%dT%H:%M:%SZ"))


@pytest.mark.parametrize(
    ("ago", "seconds"),
    [
        (timedelta(seconds=0), 299.5),
        (timedelta(minutes=4, seconds=59), 0.5),
        (AGED, None),
        (timedelta(days=3), None),
    ],
)
def test_next_change_is_when_a_pod_has_waited_five_minutes(
    ago: timedelta, seconds: float | None
) -> None:
    found = next_change([born(ago)], [], NOW)
    assert found == (None if seconds is None else NOW + timedelta(seconds=seconds))


def test_next_change_is_when_a_reservation_ends() -> None:
    starts = [NOW - RESERVES, NOW - timedelta(minutes=14), NOW]
    assert next_change([], starts, NOW) == NOW + timedelta(minutes=1)


def test_waiting_counts_from_when_other_gates_went() -> None:
    pod = replace(born(timedelta(days=1)), since="2026-01-01T00:00:00Z")
    assert next_change([pod], [], datetime(2026, 1, 1, 0, 4, tzinfo=UTC)) == datetime(
        2026, 1, 1, 0, 5, tzinfo=UTC
    )


def test_earliest_change_of_all_counts() -> None:
    pods = [born(timedelta(minutes=minutes)) for minutes in (1, 3, 19, 40)]
    assert next_change(pods, [], NOW) == NOW + timedelta(seconds=119.5)


def test_without_pods_nothing_is_to_come() -> None:
    assert next_change([], [], NOW) is None
    assert next_change([Pod("default", "p")], [], NOW) is None
