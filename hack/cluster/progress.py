"""Says on the terminal what the harness is doing and how long each step took.

Apart from logging: these lines are for a person who waits for minutes, and a test
runner must be able to send them past its capture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
"""Takes one line, without its end."""


def to_stderr(line: str) -> None:
    """Write to the real stderr, which a test runner's capture does not replace."""
    stream = sys.__stderr__ or sys.stderr
    print(line, file=stream, flush=True)


def silent(_line: str) -> None:
    """For callers that say nothing."""


def duration(seconds: float) -> str:
    """Short and exact enough: `0.4 s`, `38 s`, `3 min 37 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def step(say: Say, what: str) -> Iterator[None]:
    """Say `what` and its time once it is done; nothing if it fails."""
    started = time.monotonic()
    yield
    say(f"  {what}: {duration(time.monotonic() - started)}")
