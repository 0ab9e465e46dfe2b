"""kubernetes-asyncio's client comes without its generated modules, and leaves the package whole."""

import configparser
import importlib.util
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from hack.cluster.layout import CHECKOUT
from mpslice.kube.api import NODES
from mpslice.kube.client import ApiClient, Configuration
from mpslice.kube.session import Session, _exchange_session
from tests.waiting import DEADLINE


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    return done.stdout.strip()


def test_no_generated_module_is_loaded() -> None:
    loaded = python(
        "import sys, mpslice.kube.session\n"
        "print(*(m for m in sys.modules if m.startswith('kubernetes_asyncio.client.')))"
    )
    assert "kubernetes_asyncio.client.api_client" in loaded.split()
    assert ".models." not in loaded
    assert ".api." not in loaded


def test_who_imports_the_package_afterwards_gets_all_of_it() -> None:
    same = python(
        "import mpslice.kube.client as ours\n"
        "import kubernetes_asyncio.client as whole\n"
        "print(whole.ApiClient is ours.ApiClient, whole.V1Pod.__name__, whole.CoreV1Api.__name__)"
    )
    assert same == "True V1Pod CoreV1Api"


def test_who_has_imported_the_package_before_keeps_it() -> None:
    same = python(
        "import kubernetes_asyncio.client as whole\n"
        "import mpslice.kube.client as ours\n"
        "import kubernetes_asyncio.client as still\n"
        "print(whole is still, whole.ApiClient is ours.ApiClient)"
    )
    assert same == "True True"


_SEAM = (
    "mpslice.kube builds on {name}, which kubernetes-asyncio {version} does not have as it did; "
    "adapt {module} and only then raise the upper bound in setup.cfg"
)


def seam(name: str, module: str) -> str:
    return _SEAM.format(name=name, module=module, version=version("kubernetes-asyncio"))


@pytest.mark.parametrize(
    "name", ["client.api_client", "client.configuration", "client.rest", "config"]
)
def test_modules_that_are_imported_alone_are_where_they_were(name: str) -> None:
    found = importlib.util.find_spec("kubernetes_asyncio")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]).joinpath(*name.split("."))
    is_there = path.with_suffix(".py").exists() or path.joinpath("__init__.py").exists()
    assert is_there, seam(f"kubernetes_asyncio.{name}", "mpslice/kube/client.py")


async def test_session_of_the_client_can_be_exchanged() -> None:
    client = ApiClient(Configuration())
    try:
        session = getattr(getattr(client, "rest_client", None), "pool_manager", None)
        what = seam("ApiClient.rest_client.pool_manager", "mpslice/kube/session.py")
        assert isinstance(session, aiohttp.ClientSession), what
        _exchange_session(client)
        exchanged = client.rest_client.pool_manager
        assert exchanged is not session, what
        assert exchanged.connector is not None, what
        assert not exchanged.connector.closed, what
        assert session.closed, what
    finally:
        await client.close()


async def test_idle_connection_is_kept_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that comes after a pause does not wait for a handshake."""
    connections: set[object] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        connections.add(request.transport)
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = ApiClient(configuration)
    _exchange_session(client)
    try:
        async with Session(client) as session:
            await session.read(NODES, "n1")
            later = time.monotonic() + 60
            monkeypatch.setattr("aiohttp.connector.monotonic", lambda: later)
            await session.read(NODES, "n1")
    finally:
        await runner.cleanup()
    assert len(connections) == 1


@pytest.mark.parametrize("name", ["aiohttp", "kubernetes-asyncio"])
def test_libraries_whose_inner_parts_are_used_have_an_upper_bound(name: str) -> None:
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    requirements = settings["options"]["install_requires"].split()
    (requirement,) = [line for line in requirements if line.startswith(f"{name}>")]
    assert ",<" in requirement, f"{name} needs an upper bound in setup.cfg: its parts may move"
