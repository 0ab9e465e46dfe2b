"""The machine's node with an API server of its own, without webhook and planner, which would have a
say in these tests' pods and layouts."""

import json
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster import node as nodes
from hack.cluster.controlplane import ControlPlane
from hack.cluster.node import Node
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from mpslice.kube.api import NODE_LAYOUTS
from mpslice.kube.session import Session
from tests.chart import render
from tests.cluster import plugin
from tests.nodeagent.real.agent_process import AgentProcess
from tests.nodeagent.real.cluster import Cluster

log = logging.getLogger(__name__)


@pytest.fixture(scope="package")
def plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    """A control plane that knows NodeLayouts."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = controlplane.start(cluster, cluster_parts, cluster_say)
        documents = render(cluster_parts.helm, "--show-only=templates/crd.yaml")
        plane.kubectl("apply", "--filename=-", input=json.dumps(documents[0]))
        plane.kubectl("wait", "--for=condition=Established", "crd/nodelayouts.mpslice.io")
        yield plane
    for program in plane.programs:
        program.stop()


@pytest.fixture(scope="package")
def own_node(plane: ControlPlane, cluster_say: Say) -> Iterator[Node]:
    """The machine's node, with no agent but ours."""
    node = plugin._get("node", lambda: nodes.start(plane, cluster_say))
    yield node
    for program in node.programs:
        program.stop()


@pytest.fixture
async def cluster(plane: ControlPlane, own_node: Node) -> AsyncIterator[Cluster]:
    """The node with an agent and no layout; in the end without pods, layout and agent."""
    folder = Path(tempfile.mkdtemp(prefix="na-"))
    agent = AgentProcess(plane, own_node, folder)
    agent.start()
    async with await Session.connect("test", str(plane.kubeconfig)) as kube:
        cluster = Cluster(plane, own_node, kube, agent, folder)
        try:
            yield cluster
        finally:
            log.warning("the agent's log:\n%s", "\n".join(agent.last_lines()))
            await _clear(cluster)
    shutil.rmtree(folder)


async def _clear(cluster: Cluster) -> None:
    await cluster.delete(*(pod["metadata"]["name"] for pod in await cluster.pods()))
    if cluster.agent.running:
        await cluster.apply({}, {})
        await cluster.agent.stop()
    if await cluster.layout():
        await cluster.kube.delete(NODE_LAYOUTS, cluster.node.name)
