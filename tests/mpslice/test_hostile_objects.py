"""What a tenant can put into a pod stops no program that follows the pods."""

import asyncio
import copy
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from mpslice.kube import session as module
from mpslice.kube.api import PAGE, Json, Resource, list_all
from mpslice.kube.errors import KubeError, TooLarge, Unreachable
from mpslice.kube.reflector import Backoff, Change, Reflector
from mpslice.kube.session import _decode, _without_depths
from tests.mpslice.api_server import Fault, serving, stream
from tests.waiting import DEADLINE, eventually

THINGS = Resource("v1", "things")
GO_DEPTH = 10_000  # encoding/json refuses what is deeper
LONGEST = 3 * 2**19 * 6  # all of 1.5 MiB escaped


def deep(start: str, end: str, depth: int = GO_DEPTH, *, inner: str = "") -> str:
    return start * depth + inner + end * depth


DEEP = {
    "objects": deep('{"f:a":', "}", inner="{}"),
    "arrays": deep("[", "]"),
    "both": deep('{"f:a":[', "]}", GO_DEPTH // 2),
    "brackets in strings": deep(r'{"f:}]\"[{\\":', "}", inner=r'"]}\""'),
    "siblings": deep("[[],{},[1],", ",{}]", inner="{}"),
    "several": f"[{deep('[', ']')},{{}},{deep('[', ']')}]",
}


@asynccontextmanager
async def following(reflector: Reflector[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(DEADLINE):
            await reflector.synced.wait()
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


def _reflector(session: module.Session) -> Reflector[str]:
    def ignore(_change: Change[str]) -> None: ...

    backoff = Backoff(first=0.001, longest=0.01)
    return Reflector(session, THINGS, lambda obj: str(obj["value"]), ignore, backoff=backoff)


def saying(text: str) -> Fault:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    return answer


def a_thing(fields: str, *, name: str = "t0") -> str:
    """As the API server writes it: what we read comes after what we do not read, too."""
    return (
        f'{{"metadata":{{"managedFields":[{{"fieldsV1":{fields}}}],'
        f'"name":"{name}","resourceVersion":"101"}},"value":"}}]v0"}}'
    )


@pytest.mark.parametrize("kind", DEEP)
async def test_deep_objects_are_followed(kind: str) -> None:
    """In a list and in a watch."""
    thing, later = a_thing(DEEP[kind]), a_thing(DEEP[kind], name="t1")
    async with serving() as (server, session):
        server.faults.extend(
            [
                saying(f'{{"metadata":{{"resourceVersion":"101"}},"items":[{thing}]}}'),
                stream(f'{{"type":"ADDED","object":{later}}}\n'.encode()),
            ]
        )
        reflector = _reflector(session)
        async with following(reflector):

            async def are_there() -> bool:
                return dict(reflector.objects) == {"t0": "}]v0", "t1": "}]v0"}

            await eventually(are_there, "both objects are followed")
        assert server.requests[:2] == ["list", "watch"]


@pytest.mark.parametrize("kind", DEEP)
def test_what_is_left_of_deep_json_is_shallow_and_else_the_same(kind: str) -> None:
    text = f'{{"before":[1,{{"a":"{{"}}],"deep":{DEEP[kind]},"after":"\\\\"}}'
    read = _decode(text.encode())
    assert read is not None
    assert list(read) == ["before", "deep", "after"]
    assert (read["before"], read["after"]) == ([1, {"a": "{"}], "\\")
    assert _depth(read) <= 101
    assert copy.deepcopy(read) == read


def _depth(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


@pytest.mark.parametrize("text", ['{"a":[1,"}"],"b":{}}', "[]", '{"a":' * 100 + "1" + "}" * 100])
def test_json_that_is_not_deep_stays_as_it_is(text: str) -> None:
    assert _without_depths(text.encode()) == text.encode()


BROKEN = [
    b'{"a":' * GO_DEPTH,
    b'{"a":' * GO_DEPTH + b"}" * (GO_DEPTH - 1),
    b"[" * GO_DEPTH + b"]" * (GO_DEPTH + 1),
    b"[" * GO_DEPTH + b'"' + b'\\"a' * 2**20,
    b"[" * GO_DEPTH + b"a" * 2**20,
    b"[" * GO_DEPTH + b'"\\',
]


@pytest.mark.parametrize("text", BROKEN)
def test_deep_text_that_is_no_json_is_none_in_linear_time(text: bytes) -> None:
    begun = time.process_time()  # however busy the machine is
    assert _decode(text) is None
    assert time.process_time() - begun < 5


def test_time_for_deep_objects_is_linear() -> None:
    text = f'{{"a":[{",".join([DEEP["objects"]] * 20)}]}}'.encode()
    begun = time.process_time()  # however busy the machine is
    assert _decode(text) is not None
    assert time.process_time() - begun < 5


def test_deep_objects_are_read_with_a_small_stack() -> None:
    code = (
        "import threading\n"
        "from mpslice.kube.session import _decode\n"
        "text = b'{\"a\":' * 9999 + b'{}' + b'}' * 9999\n"
        "threading.stack_size(2**19)\n"
        "thread = threading.Thread(target=lambda: print(_decode(text) is not None))\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stdout == "True\n"


async def test_longest_object_is_followed() -> None:
    escaped = '"' + r"\u003c" * (LONGEST // 6) + '"'
    event = f'{{"type":"ADDED","object":{a_thing(escaped)}}}'
    async with serving() as (server, session):
        server.faults.extend(
            [saying('{"metadata":{"resourceVersion":"1"}}'), stream(event.encode() + b"\n")]
        )
        reflector = _reflector(session)
        async with following(reflector):

            async def is_there() -> bool:
                return dict(reflector.objects) == {"t0": "}]v0"}

            await eventually(is_there, "the object is followed")


async def test_longer_line_is_an_answer_that_cannot_be_read() -> None:
    async with serving() as (server, session):
        server.faults.append(stream(b'{"type":"' + b"a" * (module._LONGEST + 1) + b'"}\n'))
        with pytest.raises(Unreachable, match=f"more than {module._LONGEST} bytes"):
            await anext(aiter(session.watch(THINGS, query={})))


async def test_reflector_survives_a_longer_line() -> None:
    async with serving() as (server, session):
        server.put("t0", value="v0")
        reflector = _reflector(session)
        async with following(reflector):
            server.faults.append(stream(b"a" * (module._LONGEST + 1) + b"\n"))
            server.remove("t0", silently=True)
            server.end_watches()

            async def is_listed_again() -> bool:
                return not reflector.objects

            await eventually(is_listed_again, "a new list replaces the watch")


class Things:
    """An API server with objects of one size, which remembers the limits it was given."""

    def __init__(self, count: int, size: int) -> None:
        self.items: list[Json] = [
            {"metadata": {"name": f"t{number}"}, "value": "v" * size} for number in range(count)
        ]
        self.limits: list[int] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        limit, start = int(request.query["limit"]), int(request.query.get("continue") or 0)
        self.limits.append(limit)
        end = start + limit
        metadata = {"resourceVersion": "1"}
        if end < len(self.items):
            metadata["continue"] = str(end)
        return web.json_response({"metadata": metadata, "items": self.items[start:end]})


@pytest.mark.parametrize("reader", ["reflector", "list"])
async def test_page_has_at_most_a_hundred_objects(reader: str) -> None:
    things = Things(250, 1)
    async with serving() as (server, session):
        server.faults.extend([things] * 3)
        if reader == "list":
            read = len(await list_all(session, THINGS))
        else:
            reflector = _reflector(session)
            async with following(reflector):
                read = len(reflector.objects)
    assert (PAGE, read, things.limits) == ("100", 250, [100] * 3)


async def test_page_of_large_objects_is_asked_for_again_with_fewer() -> None:
    """12 MiB are taken into memory at most: 7 of these objects."""
    things = Things(30, 3 * 2**19)
    async with serving() as (server, session):
        server.faults.extend([things] * 21)
        reflector = _reflector(session)
        async with following(reflector):
            assert sorted(reflector.objects) == sorted(f"t{number}" for number in range(30))
    assert things.limits == [100, 50, 25, 12, 6] * 4 + [100]  # the last six fit


async def test_single_object_that_is_too_large_is_an_error() -> None:
    things = Things(1, module._LONGEST)
    async with serving() as (server, session):
        server.faults.extend([things] * 8)
        with pytest.raises(TooLarge) as caught:
            await list_all(session, THINGS)
    assert isinstance(caught.value, KubeError)
    assert things.limits == [100, 50, 25, 12, 6, 3, 1]
