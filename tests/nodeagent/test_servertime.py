"""What the agent knows of the API server's clock, and that its own may be wrong."""

import time

import pytest

from nodeagent.cluster.servertime import ServerTime


class Watch:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def monotonic() -> Watch:
    return Watch()


@pytest.fixture
def server(monotonic: Watch) -> ServerTime:
    return ServerTime(monotonic)


def test_own_clock_counts_until_anything_is_known(server: ServerTime) -> None:
    server.saw(0.0)
    assert server.now() == pytest.approx(time.time(), abs=60)


def test_time_goes_on_from_the_newest_write(server: ServerTime, monotonic: Watch) -> None:
    server.saw(5.0)
    monotonic.seconds += 100
    assert server.now() == 105


def test_object_that_is_seen_late_puts_nothing_back(server: ServerTime, monotonic: Watch) -> None:
    server.saw(500.0)
    monotonic.seconds += 60
    server.saw(510.0)  # 50 seconds ago
    assert server.now() == 560


def test_clock_that_was_put_back_is_followed(server: ServerTime) -> None:
    server.saw(5000.0)
    server.saw(4400.0)
    assert server.now() == 4400
