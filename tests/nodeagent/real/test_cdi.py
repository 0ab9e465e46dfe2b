"""A pod's own environment against its slice's, with and without CDI in the container runtime."""

import json

import pytest

from tests.nodeagent.conftest import gpu
from tests.nodeagent.real.cluster import NAMESPACE, Cluster

pytestmark = pytest.mark.usefixtures("machine_without_node")

THEIRS = {
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=70000M",
    "CUDA_MPS_PIPE_DIRECTORY": "/tmp/elsewhere",
    "NVIDIA_VISIBLE_DEVICES": "all",
}
OURS = {
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=9533M",
    "CUDA_MPS_PIPE_DIRECTORY": "/run/mpslice/pipe",
    "NVIDIA_VISIBLE_DEVICES": gpu(1),
    "MPSLICE_MEMORY_MIB": "9533",
    "NVIDIA_GPU_MEMORY_LIMIT": "9533",
    "NVIDIA_GPU_MEMORY_REQUEST": "9533",
}
LIFTS = "lifts-the-limit"


@pytest.fixture
def config_map(cluster: Cluster) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": LIFTS, "namespace": NAMESPACE},
        "data": THEIRS,
    }
    cluster.plane.kubectl("apply", "--filename=-", input=json.dumps(body))


async def environment(cluster: Cluster, pod: str, *, theirs: bool = False) -> dict[str, str]:
    """What the container in the slice sees; with `theirs` the ConfigMap's is its environment."""
    await cluster.run(pod, 10, env_from=LIFTS if theirs else "", restartPolicy="Always")
    lines = await cluster.printed(pod)
    return dict(line.split("=", 1) for line in lines if "=" in line)


async def test_environment_from_a_config_map_does_not_lift_the_limit(
    cluster: Cluster, config_map: None
) -> None:
    await cluster.apply({"10gb": 1}, {})
    seen = await environment(cluster, "lifted", theirs=True)
    assert {name: seen.get(name) for name in OURS} == OURS


async def test_container_that_starts_again_is_sealed_again_by_the_next_agent(
    cluster: Cluster, config_map: None
) -> None:
    """The kubelet has only the device's name by then; the file is the agent's."""
    await cluster.apply({"10gb": 1}, {})
    await environment(cluster, "lifted", theirs=True)
    cluster.agent.end()
    cluster.agent.start()
    await cluster.apply({"10gb": 1, "20gb": 1}, {})
    await cluster.kill_container("lifted")
    await cluster.restarted("lifted")
    lines = await cluster.printed("lifted")
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert {name: seen.get(name) for name in OURS} == OURS


async def test_without_cdi_a_pod_has_the_plugins_environment_and_may_replace_it(
    cluster: Cluster, config_map: None
) -> None:
    """As with a container runtime that ignores CDI devices; containerd 2.4 always reads them."""
    await cluster.agent.stop()
    cluster.agent.flags.append("--cdi=false")
    cluster.agent.start()
    await cluster.apply({"10gb": 2}, {})
    plain = await environment(cluster, "plain")
    lifted = await environment(cluster, "lifted", theirs=True)
    assert {name: plain.get(name) for name in OURS} == OURS
    assert {name: lifted.get(name) for name in THEIRS} == THEIRS
