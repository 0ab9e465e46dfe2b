"""Gives tests Prometheus' own programs: promtool, which judges, and the server, which scrapes.

Both are in Debian's package `prometheus`. A machine without them skips these tests, unless
MPSLICE_REQUIRE names `prometheus`.
"""

import shutil
from pathlib import Path

import pytest

from tests.cluster.plugin import do_without


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' judge of metrics and rules."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus_program() -> Path:
    """The server."""
    return _program("prometheus")


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        do_without("prometheus", f"there is no {name}; Debian's package `prometheus` has it")
    return Path(found)
