"""What large bodies may cost: they share bytes, take turns, and hold no small one up."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from benchmarks.admission_hostile import bodies, containers
from mpslice.server import Limits
from tests.waiting import eventually
from webhook.bodies import _MOST_LARGE, LONGEST_BODY, MOST_VALUES, Bodies
from webhook.errors import BodyTooLarge, BodyTooSlow, TooBusy

SMALL = b"[1]"
LARGE = b'["' + b"x" * 2**18 + b'"]'
_DECODING = 0.2
"""Seconds; stands for decoding, which keeps the loop, and is followed by a pause as long. Less may
pass on a busy machine while this process does not run."""


class Request:
    """A request as far as it is read: its body comes in the chunks that a test feeds."""

    def __init__(self, *chunks: bytes, whole: bool = True, announced: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        protocol = BaseProtocol(loop)
        protocol.connection_made(asyncio.Transport())
        self.content = StreamReader(protocol, 2**24, loop=loop)
        self.content_length = announced
        for chunk in chunks:
            self.content.feed_data(chunk)
        if whole:
            self.content.feed_eof()


def never(_: bytes) -> None:
    raise AssertionError("it was judged")


def judged(reader: Bodies, request: Request, judge: Callable[[bytes], Any] = len) -> Any:
    return reader.judged(request, judge)  # type: ignore[arg-type]


async def test_a_body_comes_whole_to_the_judge() -> None:
    def same(body: bytes) -> bytes:
        return body

    assert await judged(Bodies(), Request(SMALL), same) == SMALL
    assert await judged(Bodies(), Request(LARGE[:7], LARGE[7:]), same) == LARGE
    slow = Request(SMALL[:1], whole=False)
    judging = asyncio.ensure_future(judged(Bodies(), slow, same))
    await asyncio.sleep(0)
    slow.content.feed_data(SMALL[1:])
    slow.content.feed_eof()
    assert await judging == SMALL


async def test_large_bodies_are_judged_one_at_a_time_and_small_ones_between_them() -> None:
    reader, order = Bodies(), []

    def slowly(body: bytes) -> None:
        order.append(len(body))
        time.sleep(_DECODING)

    large = [asyncio.ensure_future(judged(reader, Request(LARGE), slowly)) for _ in range(3)]

    async def begun() -> bool:
        return bool(order)

    await eventually(begun, "the first large body is judged", every=0)
    for _ in range(2):
        await judged(reader, Request(SMALL), lambda body: order.append(len(body)))
    await asyncio.gather(*large)
    assert order == [len(LARGE), len(SMALL), len(SMALL), len(LARGE), len(LARGE)]


async def test_after_a_large_body_the_others_have_the_loop_for_as_long() -> None:
    reader, spans = Bodies(), []

    def slowly(body: bytes) -> None:
        started = time.monotonic()
        time.sleep(_DECODING)
        spans.append((started, time.monotonic()))

    await asyncio.gather(*(judged(reader, Request(LARGE), slowly) for _ in range(2)))
    assert spans[1][0] - spans[0][1] >= 0.9 * _DECODING


async def test_one_large_body_too_many_is_turned_away_at_once_and_the_others_are_judged() -> None:
    reader = Bodies(most_bytes=3 * len(LARGE))
    waiting = [Request(LARGE, whole=False) for _ in range(3)]
    judging = [asyncio.ensure_future(judged(reader, request)) for request in waiting]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(TooBusy, match="send it again in a second"):
        await judged(reader, Request(LARGE, LARGE))
    assert await judged(reader, Request(SMALL)) == len(SMALL)
    for request in waiting:
        request.content.feed_eof()
    assert await asyncio.gather(*judging) == [len(LARGE)] * 3
    assert await judged(reader, Request(LARGE, LARGE)) == 2 * len(LARGE), "nothing is held any more"


async def test_large_bodies_are_bounded_in_number_too() -> None:
    reader = Bodies(most_large=2)
    waiting = [Request(LARGE, whole=False) for _ in range(2)]
    judging = [asyncio.ensure_future(judged(reader, request)) for request in waiting]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(TooBusy, match="send it again in a second"):
        await judged(reader, Request(LARGE))
    for request in waiting:
        request.content.feed_eof()
    assert await asyncio.gather(*judging) == [len(LARGE)] * 2
    assert await judged(reader, Request(LARGE)) == len(LARGE), "nothing is held any more"


def test_most_connections_are_not_kept_by_large_bodies() -> None:
    assert Limits().connections >= 4 * _MOST_LARGE


async def test_a_large_body_that_waits_too_long_for_its_turn_is_turned_away() -> None:
    reader = Bodies(seconds=0.05)
    await reader._turn.acquire()
    with pytest.raises(TooBusy, match=r"waited 0\.05 s behind other large ones"):
        await judged(reader, Request(LARGE))
    reader._turn.release()
    assert await judged(reader, Request(LARGE)) == len(LARGE)


async def test_a_body_that_does_not_arrive_holds_nothing_afterwards() -> None:
    reader = Bodies(seconds=0.05, most_bytes=len(LARGE))
    with pytest.raises(BodyTooSlow, match=r"within 0\.05 s"):
        await judged(reader, Request(LARGE, whole=False))
    assert await judged(reader, Request(LARGE)) == len(LARGE)


async def test_a_body_that_is_announced_too_large_is_not_read() -> None:
    with pytest.raises(BodyTooLarge, match="8 MiB"):
        await judged(Bodies(), Request(whole=False, announced=LONGEST_BODY + 1))


async def test_a_judge_that_raises_lets_the_next_one_have_its_turn() -> None:
    reader = Bodies()

    def refuses(_: bytes) -> None:
        raise BodyTooLarge("no")

    for _ in range(2):
        with pytest.raises(BodyTooLarge):
            await judged(reader, Request(LARGE), refuses)
    assert await judged(reader, Request(LARGE)) == len(LARGE)


async def test_a_request_that_ends_in_the_pause_lets_the_next_one_have_its_turn() -> None:
    reader = Bodies()
    await judged(reader, Request(LARGE), lambda _: time.sleep(_DECODING))
    pausing = asyncio.ensure_future(judged(reader, Request(LARGE), never))
    await eventually(lambda: _is(reader._turn.locked()), "the next one has its turn", every=0)
    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pausing
    assert await judged(reader, Request(LARGE)) == len(LARGE)


async def _is(value: bool) -> bool:
    return value


async def test_more_values_than_any_pod_has_are_not_decoded() -> None:
    body = b"[" + b",".join([b"1"] * (MOST_VALUES + 1)) + b"]"
    with pytest.raises(BodyTooLarge, match="250,000 at most are read, more than any pod has"):
        await judged(Bodies(), Request(body), never)
    body = b"[" + b",".join([b"1"] * (MOST_VALUES - 1)) + b"]"
    assert await judged(Bodies(), Request(body)) == len(body)


async def test_a_pod_of_110000_containers_is_not_decoded() -> None:
    with pytest.raises(BodyTooLarge):
        await judged(Bodies(), Request(containers(110_000)), never)


async def test_hostile_bodies_of_the_benchmark_are_of_the_size_that_it_says() -> None:
    assert {name for name, body in bodies().items() if not 5.6 < len(body) / 2**20 < 5.8} == set()
