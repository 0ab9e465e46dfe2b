"""The page's port: what everybody gets, what readers get, and what neither can do."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from planner.ui import access, feed, server
from planner.ui.access import READ_LAYOUTS, Reader, list_pods
from planner.ui.page import load
from planner.ui.seen import Seen
from tests.planner.ui.cluster import layout, seen, waiting
from tests.planner.ui.reviews import EVERYTHING, READER, TableOfReviews, admitting
from tests.planner.ui.serving import Served, served
from tests.waiting import DEADLINE, eventually

SECRET = "top-secret-project"
STREAM = aiohttp.ClientTimeout(total=None, sock_read=20)


class Events:
    """A reader's stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.status = answer.status
        self._answer = answer

    async def next(self) -> tuple[str, Any]:
        """Name and data of the next event; beats are left out."""
        name = ""
        async with asyncio.timeout(DEADLINE):
            async for line in self._answer.content:
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    return name, json.loads(value)
        raise AssertionError("the stream has ended")

    async def change(self) -> dict[str, Any]:
        name, data = await self.next()
        assert name == "change"
        found: dict[str, Any] = data
        return found


@asynccontextmanager
async def reading(page: Served, token: str = "good", **headers: str) -> AsyncIterator[Events]:
    connector = aiohttp.TCPConnector()
    async with aiohttp.ClientSession(
        connector=connector, timeout=STREAM, read_bufsize=2**24
    ) as session:
        headers = {"Authorization": f"Bearer {token}", **headers}
        async with session.get(f"{page.url}/events", headers=headers) as answer:
            yield Events(answer)


async def get(page: Served, path: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{page.url}{path}", headers=headers, allow_redirects=False
        ) as answer,
    ):
        return answer.status, await answer.text(), answer.headers


def secret_cluster(*more: Any) -> Any:
    return seen([layout(SECRET)], [waiting(SECRET, 90, namespace=SECRET)])


async def test_everybody_gets_the_same_file_which_knows_nothing() -> None:
    async with served(secret_cluster(), TableOfReviews()) as page:
        status, text, headers = await get(page, "/")
    assert status == 200
    assert text.encode() == load().body
    assert SECRET not in text
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_the_file_asks_no_other_host_and_makes_no_markup_of_text() -> None:
    text = load().body.decode()
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"\sstyle=|\son[a-z]+=", text)
    assert "localStorage" not in text
    assert "sessionStorage" not in text


@pytest.mark.parametrize("path", ["/events", "/other", "/metrics", "/events/../events", "/%00"])
@pytest.mark.parametrize(
    ("authorization", "status", "body"),
    [
        ("", 401, "unauthorized\n"),
        ("Bearer ", 401, "unauthorized\n"),
        ("Bearer expired", 401, "unauthorized\n"),
        ("Bearer a b", 401, "unauthorized\n"),
        ("Basic Z29vZA==", 401, "unauthorized\n"),
        ("Bearer poor", 403, "forbidden\n"),
    ],
)
async def test_nobody_else_gets_anything_but_a_status(
    path: str, authorization: str, status: int, body: str
) -> None:
    reviews = TableOfReviews({"good": READER, "poor": Reader("poor")}, {READER.name: EVERYTHING})
    async with served(secret_cluster(), reviews) as page:
        headers = {"Authorization": authorization} if authorization else {}
        got, text, answered = await get(page, path, **headers)
        assert (got, text) == (status, body)
        assert SECRET not in str(answered)
        assert page.looked <= 1  # the sample of the history


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_written(method: str) -> None:
    async with served(secret_cluster(), admitting()) as page:
        for path in ("/", "/events"):
            assert (await get(page, path, method))[:2] == (401, "unauthorized\n")
            status, _, _ = await get(page, path, method, Authorization="Bearer good")
            assert status == 405


async def test_an_api_server_that_is_away_is_no_reason_to_show_anything() -> None:
    reviews = admitting()
    reviews.away = True
    async with served(secret_cluster(), reviews) as page:
        status, text, _ = await get(page, "/events", Authorization="Bearer good")
        assert status == 503
        assert text == "the API server could not be asked; try again\n"


async def test_a_reader_sees_everything_and_then_what_changes() -> None:
    async with (
        served(seen([layout("n1")], []), admitting()) as page,
        reading(page) as events,
    ):
        first = await events.change()
        assert first["first"] is True
        assert list(first["nodes"]) == ["n1"]
        started = time.monotonic()
        page.change(seen([layout("n1"), layout("n2", held="team-a/new")], []))
        change = await events.change()
        assert list(change["nodes"]) == ["n2"]
        assert time.monotonic() - started < 5.0


async def test_a_stream_without_compression_says_the_same() -> None:
    cluster = seen([layout("n1")], [waiting("p", 90)])
    async with served(cluster, admitting()) as page:
        answers = []
        for encoding in ("gzip", "identity"):
            async with reading(page, **{"Accept-Encoding": encoding}) as events:
                answers.append(await events.change())
        assert answers[0]["nodes"] == answers[1]["nodes"]
        assert answers[0]["queue"] == answers[1]["queue"]


async def test_changes_are_gathered() -> None:
    """At most five pictures a second, however many changes and readers there are."""
    cluster = seen([layout("n1")], [])
    async with (
        served(cluster, admitting()) as page,
        reading(page) as one,
        reading(page) as other,
    ):
        await one.change()
        await other.change()
        looked, started = page.looked, time.monotonic()
        for number in range(200):
            page.change(seen([layout("n1", held=f"team-a/p{number}")], []))
            await asyncio.sleep(0.005)
        passed = time.monotonic() - started
        assert page.looked - looked <= passed / feed.PAUSE + 1


async def test_nobody_looks_and_nothing_is_done() -> None:
    async with served(seen([layout("n1")], []), admitting()) as page:
        async with reading(page) as events:
            await events.change()
        await eventually(lambda: gone(page), "the server has seen that the page is closed")
        looked = page.looked
        for _ in range(1000):
            page.feed.changed()
        await asyncio.sleep(2 * feed.PAUSE)  # as long as a picture would take to be made
        assert page.looked == looked


async def gone(page: Served) -> bool:
    return page.feed._readers == 0


async def test_a_stream_ends_when_the_right_to_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "KEPT", 0.0)
    reviews = admitting()
    async with served(seen([layout("n1")], []), reviews) as page, reading(page) as events:
        await events.change()
        reviews.rights.clear()
        page.change(seen([layout("n1", held=f"team-a/{SECRET}")], []))
        assert await events.next() == ("end", 403)


async def test_an_expired_token_ends_a_stream_though_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "KEPT", 0.0)
    monkeypatch.setattr(server, "BEAT", 0.05)
    monkeypatch.setattr(server, "_LOOK", 0.02)
    reviews = admitting()
    async with served(seen([layout("n1")], []), reviews) as page, reading(page) as events:
        await events.change()
        reviews.owners.clear()
        name, data = await events.next()
        while name == "change":  # the first sample of the history
            name, data = await events.next()
        assert (name, data) == ("end", 401)


async def test_waiting_pods_of_namespaces_that_the_reader_may_not_list_are_not_sent() -> None:
    reviews = admitting()
    reviews.rights[READER.name] = frozenset({READ_LAYOUTS, list_pods("team-a")})
    pods = [waiting("mine", 90), waiting(SECRET, 90, namespace="other")]
    async with served(seen([layout("n1")], pods), reviews) as page, reading(page) as events:
        first = await events.change()
        assert list(first["queue"]) == ["team-a/mine"]
        assert first["waiting"] == 2
        assert SECRET not in json.dumps(first)


async def test_the_number_of_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STREAMS", 3)
    monkeypatch.setattr(server, "STREAMS_OF_ONE", 2)
    monkeypatch.setattr(server, "_LOOK", 0.02)
    other = Reader("other")
    reviews = TableOfReviews(
        {"good": READER, "other": other}, {READER.name: EVERYTHING, other.name: EVERYTHING}
    )
    async with served(seen([layout("n1")], []), reviews) as page:
        async with reading(page) as one, reading(page) as two, reading(page) as three:
            assert (one.status, two.status, three.status) == (200, 200, 429)
            async with reading(page, "other") as four, reading(page, "other") as five:
                assert (four.status, five.status) == (200, 429)
        await eventually(lambda: gone(page), "the streams have ended")
        async with reading(page) as again:
            assert again.status == 200


async def test_a_reader_that_does_not_read_is_dropped_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "STUCK", 0.5)
    decision = seen([], []).decision
    names = [f"n{number}" for number in range(2000)]
    pictures = itertools.cycle(
        [Seen({name: layout(name, held=held) for name in names}, {}, decision) for held in "ab"]
    )
    async with served(next(pictures), admitting()) as page:
        host, port = page.address.host, page.address.port
        lazy, writer = await asyncio.open_connection(host, port, limit=1024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n\r\n")
        await writer.drain()
        await lazy.readline()

        async def dropped() -> bool:
            page.change(next(pictures))
            return await gone(page)

        await eventually(dropped, "the reader is dropped", every=0.3)
        writer.close()
        async with reading(page) as events:
            assert len((await events.change())["nodes"]) == 2000


async def test_a_fault_of_the_page_does_not_stop_it(caplog: pytest.LogCaptureFixture) -> None:
    async with served(seen([layout("n1")], []), admitting()) as page, reading(page) as events:
        await events.change()
        page.change(cast(Any, None))  # whatever it is that goes wrong
        await eventually(lambda: logged(caplog), "the fault is in the log")
        page.change(seen([layout("n2")], []))
        change = await events.change()
        assert set(change["nodes"]) == {"n1", "n2"}


async def logged(caplog: pytest.LogCaptureFixture) -> bool:
    return "the page could not be brought up to date" in caplog.text
