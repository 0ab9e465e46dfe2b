"""Waits for conditions with deadlines; the harness never sleeps for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hack.cluster.errors import ClusterError

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    what: str,
    *,
    seconds: float,
    every: float = 0.05,
    details: Callable[[], str] = str,
) -> T:
    """Return the first true value of `condition`.

    Raises:
        ClusterError: `seconds` have passed; says `what` did not happen, and `details`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds:g} s. {details()}".rstrip())
        time.sleep(every)
