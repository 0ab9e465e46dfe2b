"""A real node with the image, on which nothing is installed yet."""

from collections.abc import Iterator

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster import node as nodes
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from hack.image.build import Built
from tests.cluster import plugin
from tests.helm.release import Release


@pytest.fixture(scope="package")
def place(
    cluster_parts: Parts,
    mpslice_image: Built,
    cluster_say: Say,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """A cluster of these tests' own; whoever uses it leaves no release and no slice pod behind."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = plugin._get(
            "cluster", lambda: controlplane.start(cluster, cluster_parts, cluster_say)
        )
        node = plugin._get("node", lambda: nodes.start(plane, cluster_say))
        node.import_image(mpslice_image.archive)
        yield Release(plane, node, mpslice_image, tmp_path_factory.mktemp("helm"))
    plugin._stop((*node.programs, *plane.programs))
