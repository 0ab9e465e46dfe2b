"""The life of a release whose daemons are NVIDIA's control program, and whose agent asks pynvml.

Throughout, a slice pod runs that is a client of its GPU's MPS server and ends with it.
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import mps
from hack.cluster.programs import NODE_LABEL
from hack.cluster.progress import Say
from mpslice.gpus import MIB, DeviceId
from tests.chart import render
from tests.e2e.cluster import slice_pod, until
from tests.helm import hostile_image as hostile_image_
from tests.helm.driver import DriverRoot
from tests.helm.release import NAMESPACE, RELEASE, Json, Release, readme_pod
from tests.helm.siblings import POD_SECURITY_LABEL, PRIVILEGED_LABEL, VIOLATIONS, refusals
from tests.nodeagent.mps.machine import DEFAULT, EXCLUSIVE, ONE, TWO, USER
from tests.prometheus.charted import groups, queries
from tests.prometheus.monitors import scrape_configs
from tests.prometheus.promtool import told
from tests.prometheus.server import Prometheus
from tests.prometheus.server import running as prometheus_running

# Before the tests that share the session's node: a machine can have one.
pytestmark = [pytest.mark.usefixtures("machine_without_node")]

TRAIN = "train"
VERIFY = "--selector=app.kubernetes.io/component=verify"
PROOF_SECONDS = 900  # a minute or two where the machine has nothing else to do


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
    release.pods.kubectl("delete", "pods", "--all", "--timeout=300s", check=False)
    release.helm("uninstall", RELEASE, "--no-hooks", "--wait", "--timeout=300s", check=False)
    until(lambda: not supervisors_left(release), "no pod uses the driver")


@pytest.fixture(scope="module")
def hostile_image(installed: Release, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image on the node that holds a setuid-root program."""
    folder = tmp_path_factory.mktemp("hostile")
    installed.node.import_image(hostile_image_.build(folder, mps.control_program("trixie")))
    return hostile_image_.NAME


@pytest.fixture
def release(installed: Release) -> Iterator[Release]:
    """Afterwards no slice pod is left."""
    yield installed
    installed.pods.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=300s")


@pytest.fixture
def prometheus(release: Release, prometheus_program: Path, tmp_path: Path) -> Iterator[Prometheus]:
    """Scrapes the release as the chart's monitors say, and has begun with all its programs."""
    monitors = render(release.plane.parts.helm, "--set=monitoring.enabled=always")
    scrapes = scrape_configs(monitors, release.plane.api)
    # Every second and not every minute: there is an answer at once, and GB-hours 60 times too many.
    rules = {"rules.yaml": {"groups": groups(every="1s")}}

    def scraped() -> bool:
        up = Counter(t["labels"]["container"] for t in server.targets() if t["health"] == "up")
        return up == {"webhook": 2, "planner": 2, "nodeagent": 1}

    with prometheus_running(prometheus_program, tmp_path, scrapes, rules) as server:
        until(scraped, "all programs are scraped")
        yield server


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


def proof_has_ended(release: Release) -> bool:
    """Whether the Job that proves has ended, well or not."""
    ended = ("Succeeded", "Failed")
    return any(pod["status"]["phase"] in ended for pod in release.pods_of("verify"))


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


def test_prometheus_answers_every_query_of_the_dashboards(
    release: Release,
    driver: DriverRoot,
    prometheus: Prometheus,
    promtool: Path,
) -> None:
    # By the webhook: what the ValidatingAdmissionPolicy refuses, the API server counts.
    wrong = slice_pod("wrong", 10, hostUsers=False)
    assert "UserNamespaceConflict" in release.pods.refused(wrong)
    # A size that no other test has left on a GPU: a layout has to be applied.
    release.pods.apply(cuda_pod(TRAIN, 13, driver), slice_pod("huge", 500))
    release.pods.running(TRAIN)
    gpu = DeviceId.parse(until(release.held, "its holder")[f"default/{TRAIN}"]).gpu
    pid = release.process(TRAIN)
    driver.nvml.process(gpu, pid, 2000)
    never_used = f'pod:mpslice_slice_memory_never_used_bytes:sum{{pod="{TRAIN}"}}'
    granted = f'sum(mpslice_slice_memory_limit_bytes{{pod="{TRAIN}"}})'
    used = f"{granted} - scalar({never_used})"
    until(lambda: prometheus.values(used) == [2000 * MIB], "what was used at the peak")
    driver.nvml.end_process(gpu, pid)

    def unanswered() -> list[str]:
        return [str(query) for query in queries() if not prometheus.values(query.expression)]

    until(lambda: not unanswered(), f"an answer to {unanswered()}")
    assert {rule["health"]: rule.get("lastError") for rule in prometheus.rules()} == {"ok": None}
    # Their expressions name the job and the container, which only a real target has.
    down = 'ALERTS{alertname=~"Mpslice(Webhook|Planner)Down"}'
    until(lambda: prometheus.query(down) == [], "no program is down, nor was at the last look")
    for target in prometheus.targets():
        assert told(promtool, "check", "metrics", input=prometheus.scraped(target)) == ""


def test_a_setuid_program_ends_the_daemon_only_where_privileges_may_be_gained(
    release: Release, driver: DriverRoot, hostile_image: str
) -> None:
    """uid 0 in a container, without any capability, is obeyed by NVIDIA's control program."""
    quit_ = f"echo quit | {hostile_image_.AS_ROOT} {hostile_image_.CONTROL}; echo asked"
    stay = 'trap "exit 0" TERM; sleep 3600 & wait'

    def attack(name: str, **security: bool) -> tuple[int | None, int | None, list[str]]:
        """The PIDs of the GPU's daemon before and after, and what the container printed."""
        told = "trap : USR1; sleep 3600 & echo ready; wait"
        pod = slice_pod(name, 10, command=f"{told}; {quit_}; {stay}")
        (container,) = pod["spec"]["containers"]
        container["image"] = hostile_image
        if security:
            container["securityContext"] = security
        release.pods.apply(pod)
        release.pods.running(name)
        gpu = DeviceId.parse(until(release.held, "its holder")[f"default/{name}"]).gpu
        before = driver.daemon(gpu)

        def said(word: str) -> list[str]:
            lines = release.pods.kubectl("logs", name, check=False).splitlines()
            return lines if word in lines else []

        until(lambda: said("ready"), "the container waits for its signal")
        release.pods.kubectl("exec", name, "--", "sh", "-c", "kill -USR1 1")
        lines = until(lambda: said("asked"), "the container has asked the daemon to quit")
        if "uid 0" in lines:
            until(lambda: driver.daemon(gpu) != before, "the daemon has ended")
        after = driver.daemon(gpu)
        release.pods.delete(name)
        return before, after, lines

    before, after, lines = attack("as-it-comes")
    assert "uid 1000" in lines, lines
    assert before == after
    assert before is not None
    # The same program, so that the test shows that it sees a daemon that ends.
    before, after, lines = attack("may-gain", allowPrivilegeEscalation=True)
    assert "uid 0" in lines, lines
    assert before is not None
    assert before != after


def test_a_namespace_of_the_pod_security_policy_has_slices_and_no_way_to_the_host(
    release: Release,
) -> None:
    with release.namespace("guarded", **PRIVILEGED_LABEL, **POD_SECURITY_LABEL) as guarded:
        until(lambda: refusals(guarded)[0], "the policy is in force")
        for refused, words in zip(refusals(guarded), VIOLATIONS, strict=True):
            assert "mpslice-pod-security" in refused
            assert words in refused
        guarded.apply(slice_pod("allowed", 10))
        assert guarded.running("allowed")["spec"]["hostIPC"] is True
        assert guarded.environment("allowed")["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9533M"


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
        release.helm("rollback", RELEASE, number, "--wait", "--timeout=300s")
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
        release.helm("uninstall", RELEASE, "--no-hooks", "--wait", "--timeout=300s")
        until(lambda: not release.pods_of("nodeagent"), "the agent is gone")
        # The daemon has been told to end, and lets its clients end first.
        assert running.processes() == before
        seconds = release.install()
    cluster_say(f"  uninstall --no-hooks and install --wait, with MPS ({seconds:.1f} s): {asked}")
    release.hand_over()
    assert release.held() == held
    # What the kubelet does 45 s after it told the pod to end: the daemons go with their container.
    with suppress(ProcessLookupError):  # on a slow machine 45 s have passed
        os.kill(supervisor, signal.SIGKILL)

    def back() -> bool:
        return running.restarts() == 1 and running.is_served()

    until(back, "the pod is served again")
    assert release.held() == held
    after = running.processes()
    assert after.daemon not in (None, before.daemon)
    release.pods.apply(cuda_pod("second", 10, running.driver))
    release.pods.running("second")


@pytest.mark.timeout(1500)
def test_proof_on_an_excluded_gpu_runs_beside_slices_and_becomes_a_condition(
    release: Release, driver: DriverRoot
) -> None:
    node = release.node.name
    exclusion = "mpslice.io/exclude-gpus"
    release.plane.kubectl("annotate", "node", node, f"{exclusion}=1")
    until(lambda: "GPU 1 is left alone" in release.ready_message(), "GPU 1 is excluded")
    until(lambda: driver.daemon(TWO) is None, "its daemon has ended")
    release.pods.apply(cuda_pod(TRAIN, 10, driver))
    release.pods.running(TRAIN)
    train = Running(release, driver)
    until(train.is_served, "the MPS server serves the pod")
    before = train.processes()
    with driver.cuda():
        release.upgrade(f"verify.nodes={{{node}}}", "verify.gpu=1")
        until(lambda: proof_has_ended(release), "the proof has ended", PROOF_SECONDS)
    said = release.plane.kubectl("logs", f"--namespace={NAMESPACE}", VERIFY, "--tail=-1").stdout
    shown = until(lambda: release.condition("Verified"), f"the condition; the Job said {said}")
    assert (shown["status"], shown["reason"]) == ("True", "Verified"), said
    assert shown["message"].startswith("GPU 1 (")
    assert shown["message"].endswith("every claim holds")
    assert train.processes() == before
    assert (driver.daemon(TWO), driver.nvml.compute_mode(TWO)) == (None, DEFAULT)
    release.upgrade()
    release.plane.kubectl("annotate", "node", node, f"{exclusion}-")


def test_unused_release_goes_and_gives_the_gpus_back(release: Release, driver: DriverRoot) -> None:
    release.label(**dict.fromkeys(NODE_LABEL))
    until(lambda: release.layout() is None, "the node is handed back")
    assert [driver.nvml.compute_mode(gpu) for gpu in (ONE, TWO)] == [DEFAULT, DEFAULT]
    assert [driver.daemon(gpu) for gpu in (ONE, TWO)] == [None, None]
    until(lambda: not release.pods_of("mps"), "the supervisor has gone from the node")
    release.helm("uninstall", RELEASE, "--wait", "--timeout=300s")
