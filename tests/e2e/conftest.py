"""mpslice's three programs on the real node, and a namespace of its own for each test."""

from collections.abc import Iterator

import pytest

from hack.cluster.controlplane import ControlPlane
from hack.cluster.programs import MpslicePrograms
from tests.e2e.cluster import Cluster, until


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, control_plane: ControlPlane, mpslice_programs: MpslicePrograms
) -> Iterator[Cluster]:
    """kubectl in a fresh namespace; afterwards its pods are gone and every slice is free."""
    number = len(request.session.items)
    position = request.session.items.index(request.node)
    namespace = f"e2e-{position}-of-{number}"
    control_plane.kubectl("create", "namespace", namespace)
    here = Cluster(control_plane, namespace)
    yield here
    here.kubectl("delete", "deployments,pods", "--all", "--wait=true")

    def all_free() -> bool:
        layouts = here.get("nodelayouts")["items"]
        return all(layout["status"]["summary"]["usedGB"] == 0 for layout in layouts)

    until(all_free, "every slice is free again")
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")
