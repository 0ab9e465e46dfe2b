"""A place on the real API server for each test, or an API server in memory and a clock."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from hack.cluster.controlplane import ControlPlane
from mpslice.kube.session import Session
from tests.certs.memory_kube import MemoryKube
from tests.certs.memory_replicas import Clock, new_kube
from tests.certs.replicas import Place, place


@pytest.fixture
async def here(control_plane: ControlPlane) -> AsyncIterator[Place]:
    """A namespace and webhook configurations of the test's own."""
    async with (
        await Session.connect("test", str(control_plane.kubeconfig)) as kube,
        place(kube, f"certs-{uuid4().hex[:8]}") as made,
    ):
        yield made


@pytest.fixture
def kube(clock: Clock) -> MemoryKube:
    return new_kube(clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()
