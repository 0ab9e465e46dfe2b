"""Gives tests a real cluster: fixtures for a control plane, a node, and mpslice on it.

Decides when a test is skipped: a machine that lacks a component skips with the reason,
unless MPSLICE_REQUIRE (a list of `cluster`, `node`, `mpslice`, `image`, `arm64`, `mps`, `cc`,
`browser`, `prometheus`, by commas) names it. Tests beside other projects run only where it names
`neighbours`: to build those takes minutes, and they seldom change.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, TypeVar

import pytest

from hack.cluster import controlplane, lifecycle, parts, programs
from hack.cluster import node as nodes
from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import Unavailable
from hack.cluster.node import Node
from hack.cluster.parts import Parts
from hack.cluster.processes import Program
from hack.cluster.programs import MpslicePrograms
from hack.cluster.progress import Say, to_stderr
from hack.cluster.versions import NEIGHBOURS
from hack.image.build import Built, build

T = TypeVar("T")
_OWN_NODE = "machine_without_node"
_ONE_NODE = frozenset({"node", "mpslice_programs", _OWN_NODE})
_FIXTURES = _ONE_NODE | {"cluster_parts", "control_plane"}
_IMAGE = "mpslice_image"
_NEIGHBOURS = "neighbour_parts"
NEIGHBOURS_NAME = "neighbours"
_IMAGE_NAME = "localhost/mpslice:test"


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers that tests get by the fixtures they use."""
    text = "cluster: uses a part of the test cluster, or the image (set by the fixtures)"
    config.addinivalue_line("markers", text)
    text = "versions: shows what may differ between versions of Kubernetes; `make versions`"
    config.addinivalue_line("markers", text)
    config.addinivalue_line("markers", "node: uses the machine's one node (set by the fixtures)")


@pytest.hookimpl(tryfirst=True)  # before markers are selected by -m, and groups by xdist
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One node a machine: tests that start their own come first, and all share a worker."""
    items.sort(key=lambda item: _OWN_NODE not in _fixtures_of(item))
    for item in items:
        if (_FIXTURES | {_IMAGE}).intersection(_fixtures_of(item)):
            item.add_marker(pytest.mark.cluster)
        if _ONE_NODE.intersection(_fixtures_of(item)):
            item.add_marker(pytest.mark.node)
            if config.pluginmanager.hasplugin("xdist"):
                item.add_marker(pytest.mark.xdist_group("node"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Obtain the parts now if a test needs them: it takes minutes, a test's limit is less."""
    if session.config.option.collectonly:
        return
    say = _past_capture(session.config)
    if any(_FIXTURES.intersection(_fixtures_of(item)) for item in session.items):
        try:
            parts.obtain(say)
        except Unavailable as error:
            say(f"no cluster: {error}")
    if is_required(NEIGHBOURS_NAME) and any(
        _NEIGHBOURS in _fixtures_of(item) for item in session.items
    ):
        with contextlib.suppress(Unavailable):  # which the fixture tells
            parts.obtain(say, NEIGHBOURS)
    if any(_IMAGE in _fixtures_of(item) for item in session.items):
        try:
            build(_IMAGE_NAME, say)
        except Unavailable as error:
            say(f"no image: {error}")


def _fixtures_of(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names


def _past_capture(config: pytest.Config) -> Say:
    """Says lines on the terminal: who waits for minutes must see why."""

    def say(line: str) -> None:
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            to_stderr(line)
            return
        with capture.global_and_fixture_disabled():
            to_stderr(line)

    return say


@pytest.fixture(scope="session")
def cluster_say(pytestconfig: pytest.Config) -> Say:
    """Takes lines of progress for the terminal."""
    return _past_capture(pytestconfig)


@pytest.fixture(scope="session")
def cluster_parts(cluster_say: Say) -> Parts:
    """The cluster's components, obtained."""
    return _get("cluster", lambda: parts.obtain(cluster_say))


@pytest.fixture(scope="session")
def neighbour_parts(cluster_parts: Parts, cluster_say: Say) -> Parts:
    """The programs of other projects, obtained."""
    if not is_required(NEIGHBOURS_NAME):
        pytest.skip("other projects are tested by `make neighbours`")
    return _get(NEIGHBOURS_NAME, lambda: parts.obtain(cluster_say, NEIGHBOURS))


@pytest.fixture(scope="session")
def mpslice_image(cluster_say: Say) -> Built:
    """The project's own image, of the checkout as it is."""
    return _get("image", lambda: build(_IMAGE_NAME, cluster_say))


@pytest.fixture(scope="session")
def control_plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    """A control plane of this session's own, without nodes."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = _get("cluster", lambda: controlplane.start(cluster, cluster_parts, cluster_say))
        yield plane
    _stop(plane.programs)  # they have ended; this only takes note of it


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane, cluster_say: Say) -> Iterator[Node]:
    """A real node on the control plane; its pods end with the control plane."""
    started = _get("node", lambda: nodes.start(control_plane, cluster_say))
    yield started
    _stop(started.programs)


@pytest.fixture(scope="session")
def mpslice_programs(
    control_plane: ControlPlane, node: Node, cluster_say: Say
) -> Iterator[MpslicePrograms]:
    """Webhook, planner and node agent with two simulated GPUs on the real node."""
    started = _get("mpslice", lambda: programs.start(control_plane, node, cluster_say))
    yield started
    _stop(started.programs)


@pytest.fixture
def machine_without_node(cluster_parts: Parts, cluster_say: Say) -> None:
    """For a test that starts a node by itself: the machine can have one, and has none."""
    _get("node", lambda: nodes.check_machine(cluster_say))


def _stop(stopping: Iterable[Program]) -> None:
    for program in stopping:
        program.stop()


def _get(component: str, start: Callable[[], T]) -> T:
    try:
        return start()
    except Unavailable as error:
        do_without(component, str(error))


def is_required(component: str) -> bool:
    """Whether MPSLICE_REQUIRE names it."""
    return component in os.environ.get("MPSLICE_REQUIRE", "").replace(" ", "").split(",")


def do_without(component: str, reason: str) -> NoReturn:
    """Skips the test that needs it, or fails it where it is required."""
    if is_required(component):
        pytest.fail(f"{component} is required (MPSLICE_REQUIRE): {reason}", pytrace=False)
    pytest.skip(f"no {component} on this machine: {reason}")
