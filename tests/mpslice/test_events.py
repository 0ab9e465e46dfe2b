"""The recorder of Events: it makes nobody wait, counts what repeats, and outlives every fault."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mpslice.kube.api import EVENTS, Json
from mpslice.kube.errors import ApiError, Conflict, Forbidden, KubeError, NotFound, Unreachable
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from tests.waiting import eventually

POD = ObjectRef("v1", "Pod", "p", "team", "uid-p")
NODE = ObjectRef("v1", "Node", "n1", uid="n1")


class EventServer:
    """Keeps Events by namespace and name; `faults` are raised by the next calls."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], Json] = {}
        self.faults: deque[KubeError] = deque()
        self.calls: list[str] = []
        self.stopped: asyncio.Event | None = None

    async def _pass(self, call: str) -> None:
        self.calls.append(call)
        if self.stopped is not None:
            await self.stopped.wait()
        if self.faults:
            raise self.faults.popleft()

    async def create(self, resource: Any, body: Json, *, namespace: str) -> Json:
        assert resource is EVENTS
        await self._pass("create")
        key = namespace, body["metadata"]["name"]
        if key in self.events:
            raise Conflict("there is one", status=409)
        self.events[key] = dict(body)
        return body

    async def read(self, _resource: Any, name: str, *, namespace: str) -> Json:
        await self._pass("read")
        return self.events[namespace, name]

    async def patch(self, _resource: Any, name: str, body: Json, **options: Any) -> Json:
        await self._pass("patch")
        key = options["namespace"], name
        if key not in self.events:
            raise NotFound("it has expired", status=404)
        self.events[key].update(body)
        return self.events[key]

    def counts(self) -> list[tuple[str, int]]:
        return [(event["message"], event["count"]) for event in self.events.values()]


@asynccontextmanager
async def recording(server: EventServer) -> AsyncIterator[EventRecorder]:
    kube: Any = server
    recorder = EventRecorder(kube, "mpslice-test", host="n1")
    task = asyncio.create_task(recorder.run())
    yield recorder
    task.cancel()
    await asyncio.wait({task})


async def until(server: EventServer, counts: list[tuple[str, int]]) -> None:
    async def reached() -> bool:
        return server.counts() == counts

    await eventually(reached, f"the Events are {counts}", every=0.005)


async def test_event_says_what_it_is_about_and_who_says_so() -> None:
    server = EventServer()
    async with recording(server) as recorder:
        assert recorder.record(POD, EventType.WARNING, "SliceUnavailable", "10gb: 0 of 1 nodes")
        await until(server, [("10gb: 0 of 1 nodes", 1)])
    ((namespace, name),) = server.events
    event = server.events[namespace, name]
    assert namespace == event["metadata"]["namespace"] == "team"
    assert name.startswith("p.")
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "p",
        "namespace": "team",
        "uid": "uid-p",
    }
    assert (event["type"], event["reason"]) == ("Warning", "SliceUnavailable")
    assert event["source"] == {"component": "mpslice-test", "host": "n1"}
    assert event["firstTimestamp"] == event["lastTimestamp"]


async def test_events_of_cluster_scoped_objects_live_in_default() -> None:
    server = EventServer()
    async with recording(server) as recorder:
        recorder.record(NODE, EventType.NORMAL, "GPUHealthy", "well")
        await until(server, [("well", 1)])
    assert [namespace for namespace, _ in server.events] == ["default"]
    assert "namespace" not in next(iter(server.events.values()))["involvedObject"]


async def test_same_event_raises_the_count_and_other_words_make_another() -> None:
    server = EventServer()
    async with recording(server) as recorder:
        for message in ("a", "b", "a", "a"):
            recorder.record(POD, EventType.NORMAL, "Told", message)
        await until(server, [("a", 3), ("b", 1)])


async def test_count_goes_on_after_an_earlier_process() -> None:
    server = EventServer()
    for count in (1, 2):
        async with recording(server) as recorder:
            recorder.record(POD, EventType.NORMAL, "Told", "a")
            await until(server, [("a", count)])


async def test_event_that_has_expired_is_made_anew() -> None:
    server = EventServer()
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "a")
        await until(server, [("a", 1)])
        server.events.clear()
        recorder.record(POD, EventType.NORMAL, "Told", "a")
        await until(server, [("a", 1)])


async def test_event_that_is_refused_is_dropped_and_the_next_one_goes_on() -> None:
    server = EventServer()
    server.faults.append(Forbidden("no namespace to write it in", status=403))
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "lost")
        recorder.record(POD, EventType.NORMAL, "Told", "kept")
        await until(server, [("kept", 1)])


async def test_event_outlives_a_short_absence_of_the_api_server() -> None:
    server = EventServer()
    server.faults.extend([Unreachable("connection refused"), Unreachable("reset")])
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "a")
        recorder.record(POD, EventType.NORMAL, "Told", "b")
        await until(server, [("a", 1), ("b", 1)])


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_event_outlives_a_passing_trouble_of_the_api_server(status: int) -> None:
    server = EventServer()
    server.faults.append(ApiError("not now", status=status))
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "a")
        await until(server, [("a", 1)])


async def test_event_waits_as_long_as_the_api_server_asks_within_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpslice.kube.events._PAUSES", (0.0, 0.0))
    monkeypatch.setattr("mpslice.kube.events._LONGEST", 0.3)
    server = EventServer()
    server.faults.append(ApiError("too many", status=429, retry_after=0.1))
    server.faults.append(ApiError("too many", status=429, retry_after=3600.0))
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "a")
        began = time.monotonic()
        await until(server, [("a", 1)])
    assert time.monotonic() - began >= 0.4


async def test_event_is_given_up_when_the_api_server_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpslice.kube.events._PAUSES", (0.0,))
    server = EventServer()
    server.faults.extend([Unreachable("connection refused")] * 2)
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "lost")
        recorder.record(POD, EventType.NORMAL, "Told", "kept")
        await until(server, [("kept", 1)])


async def test_recording_never_waits_and_says_when_too_much_is_waiting() -> None:
    server = EventServer()
    server.stopped = asyncio.Event()
    async with recording(server) as recorder:
        taken = [
            recorder.record(POD, EventType.NORMAL, "Told", str(number)) for number in range(2000)
        ]
        assert taken[0] is True
        assert taken[-1] is False
        assert sum(taken) == 1024


async def test_long_message_is_cut_to_what_the_api_server_takes() -> None:
    server = EventServer()
    async with recording(server) as recorder:
        recorder.record(POD, EventType.NORMAL, "Told", "x" * 5000)
        await until(server, [("x" * 1024, 1)])


async def test_name_of_a_long_lived_object_is_a_name_still() -> None:
    server = EventServer()
    about = ObjectRef("v1", "Pod", "x" * 199 + ".y" * 20, "team", "u")
    async with recording(server) as recorder:
        recorder.record(about, EventType.NORMAL, "Told", "a")
        await until(server, [("a", 1)])
    ((_, name),) = server.events
    assert len(name) <= 253
    assert ".." not in name
