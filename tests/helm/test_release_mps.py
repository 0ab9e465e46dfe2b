"""The life of a release whose daemons are NVIDIA's control program, and whose agent asks pynvml.

Throughout, a slice pod runs that is a client of its GPU's MPS server and ends with it.
"""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import mps
from hack.cluster.errors import Unavailable
from hack.cluster.programs import NODE_LABEL
from hack.cluster.progress import Say
from mpslice.gpus import DeviceId
from tests.cluster.plugin import do_without
from tests.e2e.cluster import slice_pod, until
from tests.helm.driver import DriverRoot, laid_out
from tests.helm.release import NAMESPACE, RELEASE, Json, Release, readme_pod
from tests.nodeagent.mps.machine import DEFAULT, EXCLUSIVE, ONE, TWO, USER

# Before the tests that share the session's node: a machine can have one.
pytestmark = [pytest.mark.usefixtures("machine_without_node"), pytest.mark.timeout(300)]

TRAIN = "train"


@pytest.fixture(scope="module")
def driver(place: Release, nvml_library: Path) -> Iterator[DriverRoot]:
    """On the node of these tests; no pod uses it any more when it goes."""
    try:
        control = mps.control_program("trixie")
    except Unavailable as error:
        do_without("mps", str(error))
    with laid_out(control, nvml_library) as laid:
        yield laid


@pytest.fixture(scope="module")
def installed(
    place: Release,
    driver: DriverRoot,
    tmp_path_factory: pytest.TempPathFactory,
    cluster_say: Say,
) -> Iterator[Release]:
    """The release, with the node handed over; whatever a test leaves of it goes at the end."""
    folder = tmp_path_factory.mktemp("mps")
    release = Release(place.plane, place.node, place.image, folder, driver.values)
    cluster_say(f"  helm install --wait, with MPS: {release.install():.1f} s")
    release.hand_over()
    yield release
    release.label(**dict.fromkeys(NODE_LABEL))
    release.pods.kubectl("delete", "pods", "--all", "--timeout=60s", check=False)
    release.helm("uninstall", RELEASE, "--no-hooks", "--wait", "--timeout=60s", check=False)
    until(lambda: not supervisors_left(release), "no pod uses the driver", 60)


@pytest.fixture
def release(installed: Release) -> Iterator[Release]:
    """Afterwards no slice pod is left."""
    yield installed
    installed.pods.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=60s")


@dataclass(frozen=True, slots=True)
class Processes:
    """Of a slice pod: its own, and those that its CUDA program depends on."""

    client: int
    daemon: int | None
    servers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A release under which pod `train` runs as a client of MPS."""

    release: Release
    driver: DriverRoot

    def processes(self) -> Processes:
        gpu = DeviceId.parse(self.release.held()[f"default/{TRAIN}"]).gpu
        client = self.release.process(TRAIN)
        return Processes(client, self.driver.daemon(gpu), self.driver.servers(gpu))

    def supervisor(self) -> int:
        """The PID of the first process of the container that the daemons are in."""
        (pod,) = self.release.pods_of("mps")
        return self.release.process(pod["metadata"]["name"], NAMESPACE)

    def restarts(self) -> int:
        (container,) = self.release.pods.pod(TRAIN)["status"]["containerStatuses"]
        restarts: int = container["restartCount"]
        return restarts

    def is_served(self) -> bool:
        return "served" in self.release.pods.kubectl("logs", TRAIN, check=False).splitlines()


@pytest.fixture
def running(release: Release, driver: DriverRoot) -> Running:
    release.pods.apply(cuda_pod(TRAIN, 10, driver))
    release.pods.running(TRAIN)
    train = Running(release, driver)
    until(train.is_served, "the MPS server serves the pod")
    until(lambda: f"default/{TRAIN}" in release.holders(), "the NodeLayout names its holder")
    return train


def supervisors_left(release: Release) -> list[str]:
    """The pods that MPS daemons run in, those that are ending included."""
    words = ("get", "pods", f"--namespace={NAMESPACE}", "--output=name")
    selector = "--selector=app.kubernetes.io/component=mps"
    return release.plane.kubectl(*words, selector).stdout.split()


def cuda_pod(name: str, size: int, driver: DriverRoot) -> Json:
    """A slice pod whose one process is a client of the MPS server, and ends when that does."""
    volume = {"name": "cuda", "hostPath": {"path": str(driver.client), "type": "File"}}
    pod = slice_pod(name, size, volumes=[volume], terminationGracePeriodSeconds=1)
    (container,) = pod["spec"]["containers"]
    container |= {
        "command": ["/cuda", str(USER)],
        "securityContext": {"runAsGroup": USER},
        "volumeMounts": [{"name": "cuda", "mountPath": "/cuda", "readOnly": True}],
    }
    return pod


def test_the_readmes_pod_runs_after_helm_install(release: Release, driver: DriverRoot) -> None:
    pod = readme_pod()
    release.pods.apply(pod)
    name = pod["metadata"]["name"]
    release.pods.running(name)
    seen = release.pods.environment(name)
    assert (seen["uid"], seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"]) == (str(USER), "0=9533M")
    gpu = DeviceId.parse(until(release.held, "its holder")[f"default/{name}"]).gpu
    assert driver.nvml.compute_mode(gpu) == EXCLUSIVE
    assert driver.daemon(gpu)
    assert len(driver.servers(gpu)) == 1


def test_upgrade_and_rollback_disturb_neither_pods_nor_daemons(
    running: Running, cluster_say: Say
) -> None:
    release, before = running.release, running.processes()
    supervisor = running.supervisor()
    (number,) = re.findall(r'"revision":"(\d+)"', release.helm("list", "--output=json").stdout)
    with release.requests() as upgrading:
        seconds = release.upgrade("logLevel=debug", "webhook.podLabels.example=one")
        release.pods.apply(cuda_pod("after-upgrade", 20, running.driver))
        release.pods.running("after-upgrade")
    cluster_say(f"  helm upgrade --wait, with MPS: {seconds:.1f} s; {upgrading}")
    assert running.processes() == before
    with release.requests() as rolling_back:
        release.helm("rollback", RELEASE, number, "--wait", "--timeout=100s")
        release.pods.apply(cuda_pod("after-rollback", 20, running.driver))
        release.pods.running("after-rollback")
    cluster_say(f"  helm rollback --wait, with MPS: {rolling_back}")
    assert running.processes() == before
    assert running.restarts() == 0
    # Its template has had another log level meanwhile: it waits for a person to replace it.
    assert running.supervisor() == supervisor
    for asked in (upgrading, rolling_back):
        assert asked.accepted > 0
        assert not asked.refused
        assert not asked.ungated


def test_forced_uninstall_ends_the_daemons_and_reinstall_brings_the_pod_back(
    running: Running, cluster_say: Say
) -> None:
    release, before = running.release, running.processes()
    supervisor, held = running.supervisor(), release.held()
    with release.requests() as asked:
        release.helm("uninstall", RELEASE, "--no-hooks", "--wait", "--timeout=60s")
        until(lambda: not release.pods_of("nodeagent"), "the agent is gone", 60)
        # The daemon has been told to end, and lets its clients end first.
        assert running.processes() == before
        seconds = release.install()
    cluster_say(f"  uninstall --no-hooks and install --wait, with MPS ({seconds:.1f} s): {asked}")
    release.hand_over()
    assert release.held() == held
    # What the kubelet does 45 s after it told the pod to end: the daemons go with their container.
    os.kill(supervisor, signal.SIGKILL)

    def back() -> bool:
        return running.restarts() == 1 and running.is_served()

    until(back, "the pod is served again", 60)
    assert release.held() == held
    after = running.processes()
    assert after.daemon not in (None, before.daemon)
    release.pods.apply(cuda_pod("second", 10, running.driver))
    release.pods.running("second")


def test_unused_release_goes_and_gives_the_gpus_back(release: Release, driver: DriverRoot) -> None:
    release.label(**dict.fromkeys(NODE_LABEL))
    until(lambda: release.layout() is None, "the node is handed back", 60)
    assert [driver.nvml.compute_mode(gpu) for gpu in (ONE, TWO)] == [DEFAULT, DEFAULT]
    assert [driver.daemon(gpu) for gpu in (ONE, TWO)] == [None, None]
    until(lambda: not release.pods_of("mps"), "the supervisor has gone from the node", 60)
    release.helm("uninstall", RELEASE, "--wait", "--timeout=60s")
