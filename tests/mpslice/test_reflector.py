"""The reflector's copy equals the server's objects after every fault."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mpslice.kube import reflector
from mpslice.kube.api import Json, Resource
from mpslice.kube.outage import is_blind
from mpslice.kube.reflector import Backoff, Change, Reflector
from tests.mpslice.api_server import (
    Fault,
    FaultyApiServer,
    html,
    reset,
    serving,
    silent,
    status,
    stream,
)
from tests.waiting import DEADLINE, eventually

THINGS = Resource("v1", "things")


class Following:
    """A running reflector of the things' values, and every change it reported."""

    def __init__(self, server: FaultyApiServer, reflector: Reflector[str]) -> None:
        self.server = server
        self.reflector = reflector
        self.changes: list[Change[str]] = []
        self.recovered = asyncio.Event()

    async def has_recovered(self) -> bool:
        return self.recovered.is_set()

    async def is_equal(self) -> bool:
        wanted = {name: obj["value"] for name, obj in self.server.objects.items()}
        return dict(self.reflector.objects) == wanted

    async def has_watched(self) -> bool:
        return "watch" in self.server.requests

    async def watches_again(self) -> bool:
        return not self.server.cuts and not is_blind(self.reflector.outages)

    async def faults_are_used(self) -> bool:
        return not self.server.faults

    async def catches_up(self) -> None:
        await eventually(self.is_equal, "the copy equals the server's objects")


@asynccontextmanager
async def following(*faults: Fault, objects: int = 2, page: int = 500) -> AsyncIterator[Following]:
    async with serving() as (server, session):
        server.page = page
        for number in range(objects):
            server.put(f"t{number}", value=f"v{number}")
        server.faults.extend(faults)
        changes: list[Change[str]] = []
        recovered = asyncio.Event()
        reflector: Reflector[str] = Reflector(
            session,
            THINGS,
            _value,
            changes.append,
            backoff=Backoff(first=0.001, longest=0.01),
            on_recovery=recovered.set,
        )
        state = Following(server, reflector)
        state.changes, state.recovered = changes, recovered
        task = asyncio.create_task(reflector.run())
        try:
            async with asyncio.timeout(DEADLINE):
                await reflector.synced.wait()
            yield state
        finally:
            task.cancel()
            await asyncio.wait({task})


def _value(obj: Json) -> str:
    return str(obj["value"]) if "value" in obj else "gone"


async def test_changes_are_seen_as_they_come() -> None:
    async with following() as state:
        state.server.put("t2", value="new")
        state.server.put("t0", value="changed")
        state.server.remove("t1")
        await state.catches_up()
        assert [(c.key, c.old, c.new) for c in state.changes[2:]] == [
            ("t2", None, "new"),
            ("t0", "v0", "changed"),
            ("t1", "v1", None),
        ]


async def test_list_is_read_in_pages() -> None:
    async with following(objects=7, page=3) as state:
        await state.catches_up()
        assert state.server.requests[:3] == ["list", "list", "list"]


async def test_change_that_leaves_the_projection_alone_is_not_reported() -> None:
    async with following() as state:
        state.server.put("t0", value="v0", other="field")
        state.server.put("t2", value="after")
        await state.catches_up()
        assert [change.key for change in state.changes] == ["t0", "t1", "t2"]


GONE = json.dumps(
    {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
).encode()

FAULTS = {
    "bad gateway": html(502),
    "too many requests": status(429, retry_after="0"),
    "410 instead of a stream": status(410),
    "410 in the stream": stream(GONE + b"\n"),
    "an event cut in the middle": stream(b'{"type": "ADDED", "obj'),
    "no JSON": stream(b"<html>\n"),
    "connection reset": reset(),
    "error without a code": stream(b'{"type": "ERROR", "object": {}}\n'),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_watch_survives(name: str) -> None:
    async with following() as state:
        # Twice, since aiohttp itself sends a GET again when a kept connection was reset.
        state.server.faults.extend([FAULTS[name]] * 2)
        # Deleted while nobody watched: only a list that replaces everything shows it.
        state.server.remove("t0", silently=True)
        state.server.put("t9", value="v9")
        state.server.end_watches()
        await state.catches_up()
        assert Change("t0", "v0", None) in state.changes


@pytest.mark.parametrize("accept", [False, True], ids=["unanswered", "quiet"])
async def test_watch_that_says_nothing_is_given_up(
    accept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpslice.kube.session._WATCH_ANSWER", 0.3)
    monkeypatch.setattr("mpslice.kube.session._WATCH_QUIET", 0.3)
    async with following() as state:
        state.server.faults.append(silent(accept=accept))
        state.server.end_watches()
        await eventually(state.faults_are_used, "the fault's turn has come")
        state.server.remove("t0", silently=True)
        await state.catches_up()


@pytest.mark.parametrize("name", FAULTS)
async def test_list_survives(name: str) -> None:
    async with following(FAULTS[name]) as state:
        await state.catches_up()


async def test_outage_lasts_from_the_first_failure_to_the_next_list() -> None:
    async with following(objects=5, page=2) as state:
        state.server.faults.extend([html(502)] * 4)
        state.server.remove("t0", silently=True)  # only a list shows it
        before = time.monotonic()
        state.server.end_watches()
        await state.catches_up()
        (outage,) = state.reflector.outages
        assert outage.ended is not None
        assert before < outage.begun < outage.ended < time.monotonic()


async def test_end_of_an_outage_is_told_though_nothing_has_changed() -> None:
    """A planner waits for it."""
    async with following() as state:
        assert not await state.has_recovered()
        before = len(state.changes)
        state.server.faults.extend([html(502)] * 2)
        state.server.end_watches()
        await eventually(state.has_recovered, "it is told")
        assert len(state.changes) == before


async def test_idle_watch_that_is_cut_again_and_again_is_followed_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often: the delays do not grow, and no failure comes of it."""
    monkeypatch.setattr(reflector, "_IDLE", 0.0)
    async with following() as state:
        state.server.cuts = 12
        state.server.end_watches()
        await eventually(state.watches_again, "all are cut")
        (outage,) = state.reflector.outages
        assert outage.idle
        assert state.reflector._backoff.delay() <= 0.002


async def test_watch_that_is_cut_while_it_was_busy_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflector, "_IDLE", 3600.0)
    async with following() as state:
        state.server.cuts = 1
        state.server.end_watches()
        await eventually(state.has_recovered, "followed again")
        (outage,) = state.reflector.outages
        assert not outage.idle


async def test_watch_that_is_refused_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "_IDLE", 0.0)
    async with following() as state:
        state.server.faults.append(html(502))
        state.server.end_watches()
        await eventually(state.has_recovered, "followed again")
        (outage,) = state.reflector.outages
        assert not outage.idle


async def test_watch_is_idle_once_nothing_has_come_for_a_while() -> None:
    async with following() as state:
        await eventually(state.has_watched, "the watch has begun")
        before = state.reflector._heard
        state.server.put("t0", value="new")
        await state.catches_up()
        assert state.reflector._heard > before


async def test_expired_version_is_no_outage() -> None:
    async with following() as state:
        state.server.faults.extend([status(410)])
        state.server.remove("t0", silently=True)
        state.server.end_watches()
        await state.catches_up()
        assert state.reflector.outages == ()


async def test_expired_continue_token_starts_the_list_again() -> None:
    async with following(objects=5, page=2) as state:
        await state.catches_up()
        before = state.server.requests.count("list")
        state.server.faults.extend([status(410)])
        state.server.end_watches()
        state.server.put("t9", value="v9")
        await state.catches_up()
        assert state.server.requests.count("list") > before


async def test_server_that_ends_every_watch_at_once_is_not_hammered() -> None:
    async with following() as state:
        state.server.faults.extend([stream()] * 1000)
        state.server.end_watches()
        loop = asyncio.get_running_loop()
        started = loop.time()
        seen = len(state.server.requests)

        async def twenty_more() -> bool:
            return len(state.server.requests) >= seen + 20

        await eventually(twenty_more, "twenty more requests")
        # Twenty delays of at least half of first, doubling up to longest.
        assert loop.time() - started > 15 * 0.005


def test_backoff_doubles_up_to_its_limit_and_obeys_the_server() -> None:
    backoff = Backoff(first=1.0, longest=4.0)
    delays = [backoff.delay() for _ in range(5)]
    for delay, base in zip(delays, (1, 2, 4, 4, 4), strict=True):
        assert base / 2 <= delay <= base
    assert backoff.delay(retry_after=60.0) == 60.0
    backoff.reset()
    assert backoff.delay() <= 1.0
