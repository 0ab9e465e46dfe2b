"""Clusters of these tests' own: the chart's policies are felt by every other test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import controlplane, lifecycle, mps
from hack.cluster import node as nodes
from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import Unavailable
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from hack.image.build import Built
from tests.cluster import plugin
from tests.cluster.plugin import do_without
from tests.helm.driver import DriverRoot, laid_out
from tests.helm.release import Release


@pytest.fixture(scope="package")
def control_plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    """Without nodes, in place of the session's; modules leave their policies there."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = plugin._get(
            "cluster", lambda: controlplane.start(cluster, cluster_parts, cluster_say)
        )
        yield plane
    plugin._stop(plane.programs)


@pytest.fixture(scope="package")
def place(
    cluster_parts: Parts,
    mpslice_image: Built,
    cluster_say: Say,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """With a real node and the image; whoever uses it leaves no release and no slice pod behind."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = plugin._get(
            "cluster", lambda: controlplane.start(cluster, cluster_parts, cluster_say)
        )
        node = plugin._get("node", lambda: nodes.start(plane, cluster_say))
        node.import_image(mpslice_image.archive)
        yield Release(plane, node, mpslice_image, tmp_path_factory.mktemp("helm"))
    plugin._stop((*node.programs, *plane.programs))


@pytest.fixture(scope="module")
def driver(place: Release, nvml_library: Path) -> Iterator[DriverRoot]:
    """NVIDIA's control program on that node; no pod uses it any more when it goes."""
    try:
        control = mps.control_program("trixie")
    except Unavailable as error:
        do_without("mps", str(error))
    with laid_out(control, nvml_library) as laid:
        yield laid
