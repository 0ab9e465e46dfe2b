"""A control plane of these tests' own: what admission does is felt by every other test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.parts import Parts
from hack.cluster.progress import to_stderr
from tests.webhook.cluster import Installation


@pytest.fixture(scope="session")
def installation(
    cluster_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart on a real control plane, without a replica."""
    folder: Path = tmp_path_factory.mktemp("webhook")
    with lifecycle.owned(to_stderr) as cluster:
        plane = controlplane.start(cluster, cluster_parts, to_stderr)
        made = Installation(plane, folder)
        made.install()
        yield made
    for program in plane.programs:
        program.stop()  # they have ended; this only takes note of it
