"""Kubeconfigs are taken as kubectl takes them, and a token that has ended is asked for anew."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mpslice.kube.api import NODES
from mpslice.kube.credentials import Credentials
from mpslice.kube.errors import ApiError, BadCredentials
from mpslice.kube.session import Session

UNUSED = "http://127.0.0.1:1"


def cluster(name: str, server: str = UNUSED) -> dict[str, Any]:
    return {"clusters": [{"name": name, "cluster": {"server": server}}]}


def context(name: str) -> dict[str, Any]:
    """Of the cluster and the user of the same name."""
    return {"contexts": [{"name": name, "context": {"cluster": name, "user": name}}]}


def user(name: str, **fields: Any) -> dict[str, Any]:
    return {"users": [{"name": name, "user": fields}]}


def written(path: Path, *parts: dict[str, Any], current: str = "") -> str:
    said: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
    for part in parts:
        said.update(part)
    path.write_text(json.dumps(said | ({"current-context": current} if current else {})))
    return str(path)


def whole(path: Path, name: str = "c", *, server: str = UNUSED, **fields: Any) -> str:
    parts = cluster(name, server), context(name), user(name, **(fields or {"token": name}))
    return written(path, *parts, current=name)


class Plugin:
    """An exec plugin that gives the token it is told to, and counts how often it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        code = 'echo asked >> "$1/asked"; cat "$1/credential"'
        self.entry = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", code, "sh", str(folder)],
            "interactiveMode": "Never",
        }

    def give(self, token: str, *, seconds: float | None = None) -> None:
        """`seconds` are left until it ends."""
        status = {"token": token}
        if seconds is not None:
            end = datetime.now(UTC) + timedelta(seconds=seconds)
            status["expirationTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        credential = {
            "apiVersion": self.entry["apiVersion"],
            "kind": "ExecCredential",
            "status": status,
        }
        (self._folder / "credential").write_text(json.dumps(credential))

    def fail(self) -> None:
        (self._folder / "credential").unlink()

    @property
    def asked(self) -> int:
        return len((self._folder / "asked").read_text().split())


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


class Guard:
    """An API server that lets nobody in but who has the token."""

    def __init__(self) -> None:
        self.token = ""
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            body = {"kind": "Status", "code": 401, "message": "Unauthorized"}
            return web.json_response(body, status=401)
        if request.query.get("watch"):
            return web.Response()
        return web.json_response({"items": []})


@asynccontextmanager
async def guarded(token: str, kind: type[Guard] = Guard) -> AsyncIterator[Guard]:
    guard = kind()
    guard.token = token
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", guard.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    guard.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield guard
    finally:
        await runner.cleanup()


def token(credentials: Credentials) -> str:
    return str(credentials.configuration.api_key["BearerToken"])


async def test_several_files_are_one_kubeconfig_whether_all_of_them_exist_or_not(
    tmp_path: Path,
) -> None:
    first = written(tmp_path / "a", context("c"), current="c")
    second = written(tmp_path / "b", cluster("c"), user("c", token="x"))
    empty = tmp_path / "empty"
    empty.touch()
    listed = f"{empty}:{first}:{tmp_path / 'missing'}:{second}"
    credentials = await Credentials.load(listed)
    assert (credentials.configuration.host, token(credentials)) == (UNUSED, "Bearer x")


async def test_first_file_says_which_cluster_is_meant(tmp_path: Path) -> None:
    listed = f"{whole(tmp_path / 'a', 'one')}:{whole(tmp_path / 'b', 'two')}"
    assert token(await Credentials.load(listed)) == "Bearer one"


async def test_missing_files_are_said_to_be_missing(tmp_path: Path) -> None:
    another = "give another with --kubeconfig or $KUBECONFIG"
    a, b = tmp_path / "a", tmp_path / "b"
    for listed, said in (
        (f"{a}", f"kubeconfig {a} does not exist; {another}"),
        (f"{a}:{b}", f"kubeconfig {a}:{b} names no file that exists; {another}"),
    ):
        with pytest.raises(BadCredentials) as raised:
            await Session.connect("test", listed)
        assert str(raised.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: }", "line 2 is not YAML: expected ',' or ']', but got ':'"),
        ("a: \0", "unacceptable character"),
        ("", "it is empty"),
        ("- 1", "is not a kubeconfig"),
        ("hello", "is not a kubeconfig"),
        ("current-context: c", "it has no context"),
        ("current-context: c\ncontexts: [1]", "it is not a kubeconfig"),
        ("current-context: c\ncontexts: [{name: c, context: 1}]", "it is not a kubeconfig"),
        ("contexts: {}", "it has no current-context"),
    ],
)
async def test_file_that_is_no_kubeconfig_is_answered_with_a_sentence(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadCredentials) as raised:
        await Session.connect("test", str(path))
    answer = str(raised.value)
    assert answer.startswith(f"cannot use kubeconfig {path}: ")
    assert said in answer
    assert "\n" not in answer


async def test_context_chooses_cluster_and_namespace(tmp_path: Path) -> None:
    other = context("two")
    other["contexts"][0]["context"]["namespace"] = "team-a"
    listed = f"{whole(tmp_path / 'a', 'one')}:{whole(tmp_path / 'b', 'two')}"
    written(tmp_path / "b", cluster("two"), other, user("two", token="two"))
    first, second = await Credentials.load(listed), await Credentials.load(listed, "two")
    assert (token(first), first.namespace) == ("Bearer one", "default")
    assert (token(second), second.namespace) == ("Bearer two", "team-a")


async def test_unknown_context_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    path = whole(tmp_path / "config", "one")
    with pytest.raises(BadCredentials) as raised:
        await Session.connect("test", path, context="two")
    assert str(raised.value) == (
        f"cannot use kubeconfig {path}: it has no context 'two'; its contexts are: one"
    )


async def test_every_request_names_whom_it_stands_for(tmp_path: Path) -> None:
    seen: list[tuple[str, list[str]]] = []

    class Noting(Guard):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            groups = request.headers.getall("Impersonate-Group", [])
            seen.append((request.headers.get("Impersonate-User", ""), groups))
            return await super().handle(request)

    async with guarded("c", Noting) as server:
        path = whole(tmp_path / "config", server=server.url)
        async with await Session.connect("test", path, user="jane", groups=["a", "b"]) as kube:
            await kube.list_page(NODES, query={})
        async with await Session.connect("test", path) as kube:
            await kube.list_page(NODES, query={})
    assert seen == [("jane", ["a", "b"]), ("", [])]


async def test_token_that_ends_is_asked_for_anew_and_once_for_all(
    tmp_path: Path, plugin: Plugin
) -> None:
    plugin.give("first", seconds=5)
    credentials = await Credentials.load(whole(tmp_path / "config", exec=plugin.entry))
    plugin.give("second", seconds=3600)
    await asyncio.gather(*(credentials.renew() for _ in range(5)))
    await credentials.renew()
    assert token(credentials) == "Bearer second"
    assert plugin.asked == 2


async def test_token_is_asked_for_anew_of_the_cluster_that_was_chosen_first(
    tmp_path: Path, plugin: Plugin
) -> None:
    plugin.give("first", seconds=0)
    path = tmp_path / "config"
    credentials = await Credentials.load(whole(path, "one", exec=plugin.entry))
    both = {
        key: [*of_one[key], *of_two[key]]
        for of_one, of_two in (
            (cluster("one"), cluster("two")),
            (context("one"), context("two")),
            (user("one", exec=plugin.entry), user("two", token="of two")),
        )
        for key in of_one
    }
    written(path, both, current="two")
    plugin.give("second", seconds=3600)
    await credentials.renew()
    assert token(credentials) == "Bearer second"


async def test_plugin_that_fails_is_asked_again_by_the_next_request(
    tmp_path: Path, plugin: Plugin
) -> None:
    plugin.give("first", seconds=0)
    async with guarded("second") as guard:
        config = whole(tmp_path / "config", server=guard.url, exec=plugin.entry)
        async with await Session.connect("test", config) as session:
            plugin.fail()
            with pytest.raises(BadCredentials, match="process returned 1"):
                await session.list_page(NODES, query={})
            plugin.give("second", seconds=3600)
            assert await session.list_page(NODES, query={}) == {"items": []}


@pytest.mark.parametrize("watching", [False, True])
async def test_token_that_the_api_server_refuses_is_asked_for_anew(
    watching: bool, tmp_path: Path, plugin: Plugin
) -> None:
    plugin.give("first")
    async with guarded("first") as guard:
        config = whole(tmp_path / "config", server=guard.url, exec=plugin.entry)
        async with await Session.connect("test", config) as session:

            async def ask() -> None:
                if watching:
                    assert [event async for event in session.watch(NODES, query={})] == []
                else:
                    await session.list_page(NODES, query={})

            await ask()
            guard.token = "second"
            plugin.give("second")
            with pytest.raises(ApiError, match="Unauthorized"):
                await ask()
            await ask()
            await ask()
    assert plugin.asked == 2


async def test_token_of_two_lines_is_said_to_be_no_token(tmp_path: Path) -> None:
    async with guarded("a") as guard:
        config = whole(tmp_path / "config", server=guard.url, token="a\nb")
        async with await Session.connect("test", config) as session:
            with pytest.raises(BadCredentials, match="GET /api/v1/nodes"):
                await session.list_page(NODES, query={})
            with pytest.raises(BadCredentials):
                [event async for event in session.watch(NODES, query={})]
