"""A slice pod that Gatekeeper's mutators have changed runs on a real node, where what planner,
scheduler and node agent write goes through Gatekeeper's webhooks."""

from collections.abc import Iterator

import pytest

from hack.cluster import node as nodes
from hack.cluster import programs
from hack.cluster.node import Node
from hack.cluster.processes import Program
from hack.cluster.progress import Say
from tests.cluster import plugin
from tests.e2e.cluster import Cluster, slice_pod
from tests.neighbours import gatekeeper
from tests.neighbours.gatekeeper import Engine
from tests.neighbours.policies import ADDING, LABEL, constraint, label_of
from tests.webhook.cluster import Installation

pytestmark = pytest.mark.usefixtures("machine_without_node")


@pytest.fixture
def node(beside: Installation, cluster_say: Say) -> Iterator[Node]:
    """mpslice at work on a node, and Gatekeeper beside it."""
    plane = beside.plane
    started: list[Program] = []
    try:
        found = plugin._get("node", lambda: nodes.start(plane, cluster_say))
        started += found.programs
        started += programs.start(plane, found, cluster_say).programs
        with gatekeeper.running(plane, beside.folder / "gatekeeper"):
            yield found
    finally:
        for program in reversed(started):
            program.stop()


def test_pod_that_mutators_have_changed_runs_with_its_slice(
    beside: Installation, node: Node
) -> None:
    cluster, engine = Cluster(beside.plane, "default"), Engine(beside)
    label = label_of(ADDING[0]["metadata"]["name"])
    forbidden = slice_pod("forbidden", 10, hostPID=True)
    engine.refused(forbidden, constraint(beside.plane, label, slices=True))
    body = slice_pod("sliced", 10)
    engine.changed(body, *ADDING)
    body["metadata"]["labels"] = {LABEL: label}
    cluster.apply(body)
    made = cluster.running("sliced")
    assert made["spec"]["nodeName"] == node.name
    assert made["spec"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert made["metadata"]["labels"]["team"] == "a"
    seen = cluster.environment("sliced")
    assert (seen["TEAM"], seen["uid"]) == ("a", "1000")
    assert seen["CUDA_MPS_PIPE_DIRECTORY"] == "/run/mpslice/pipe"
    assert seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9533M"
    cluster.delete("sliced")
