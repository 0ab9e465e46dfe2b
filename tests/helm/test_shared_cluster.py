"""The recommended values of a shared cluster, installed, in a namespace that enforces `baseline`.

NVIDIA's control program, a private /dev/shm, and a slice pod that is a client of its MPS server.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.programs import NODE_LABEL
from hack.cluster.progress import Say
from tests.chart import CHART
from tests.e2e.cluster import SHOW_AND_STAY, Cluster, slice_pod, until
from tests.helm.driver import DriverRoot
from tests.helm.release import RELEASE, Json, Release
from tests.helm.siblings import BASELINE_LABEL, VIOLATIONS, refusals
from tests.nodeagent.mps.machine import USER

# Before the tests that share the session's node: a machine can have one.
pytestmark = [pytest.mark.usefixtures("machine_without_node")]

VALUES = CHART / "values-shared-cluster.yaml"


@pytest.fixture(scope="module")
def release(
    place: Release, driver: DriverRoot, tmp_path_factory: pytest.TempPathFactory, cluster_say: Say
) -> Iterator[Release]:
    """Installed with the example's values, with the node handed over; it goes at the end."""
    folder: Path = tmp_path_factory.mktemp("shared")
    release = Release(place.plane, place.node, place.image, folder, driver.values)
    seconds = release.install(f"--values={VALUES}")
    cluster_say(f"  helm install --wait, for a shared cluster: {seconds:.1f} s")
    release.hand_over()
    yield release
    release.label(**dict.fromkeys(NODE_LABEL))
    until(lambda: release.layout() is None, "the node is handed back")
    until(lambda: not release.pods_of("mps"), "the supervisor has gone from the node")
    release.helm("uninstall", RELEASE, "--no-hooks", "--wait", "--timeout=300s", check=False)


@pytest.fixture(scope="module")
def team(release: Release) -> Iterator[Cluster]:
    with release.namespace("team", **BASELINE_LABEL) as namespace:
        yield namespace


def cuda_pod(driver: DriverRoot) -> tuple[Json, Json]:
    """A client of the MPS server, in a ConfigMap: `baseline` has no hostPath for it."""
    program = {"cuda": base64.b64encode(driver.client.read_bytes()).decode()}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cuda"}}
    volume = {"name": "cuda", "configMap": {"name": "cuda", "defaultMode": 0o555}}
    pod = slice_pod("train", 10, volumes=[volume], terminationGracePeriodSeconds=1)
    (container,) = pod["spec"]["containers"]
    container |= {
        "command": ["/program/cuda", str(USER)],
        "securityContext": {"runAsGroup": USER},
        "volumeMounts": [{"name": "cuda", "mountPath": "/program"}],
    }
    return {**config, "binaryData": program}, pod


def test_a_slice_pod_is_served_where_baseline_is_enforced(
    team: Cluster, driver: DriverRoot
) -> None:
    config, pod = cuda_pod(driver)
    # Not applied: the annotation of that would be larger than annotations may be.
    team.kubectl("create", "--filename=-", input=json.dumps(config))
    team.apply(pod)
    assert "hostIPC" not in team.running("train")["spec"]
    until(
        lambda: "served" in team.kubectl("logs", "train", check=False).splitlines(),
        "the MPS server serves the pod",
    )


def test_its_shared_memory_is_that_of_mps_and_not_the_hosts(
    team: Cluster, driver: DriverRoot
) -> None:
    show = SHOW_AND_STAY.replace("env;", 'env; grep " /dev/shm " /proc/mounts;')
    team.apply(slice_pod("shows", 10, command=show))
    team.running("shows")
    assert team.environment("shows")["uid"] == str(USER)
    (mount,) = (line for line in team.kubectl("logs", "shows").splitlines() if "/dev/shm" in line)
    assert "size=8388608k" in mount


def test_pods_that_reach_for_the_host_are_refused_there(team: Cluster) -> None:
    for refused, words in zip(refusals(team), VIOLATIONS, strict=True):
        assert 'violates PodSecurity "baseline:latest"' in refused
        assert words in refused
