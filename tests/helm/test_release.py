"""The life of a release on a real node: every program of the chart in a pod of its own image.

Throughout, a slice pod runs whose process must not change; the GPUs are simulated.
"""

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.configs import RUNTIME_HANDLER, RUNTIME_MARK
from hack.cluster.programs import NODE_LABEL
from hack.cluster.progress import Say
from tests.chart import CHART
from tests.e2e.cluster import slice_pod, until
from tests.helm.release import NAMESPACE, RELEASE, Release, readme_pod
from tests.waiting import DEADLINE

# Before the tests that share the session's node: a machine can have one.
pytestmark = [pytest.mark.usefixtures("machine_without_node")]


@pytest.fixture
def release(place: Release, cluster_say: Say) -> Iterator[Release]:
    """Installed, and the node handed over; afterwards no pod is left."""
    if place.helm("status", RELEASE, check=False).returncode != 0:
        cluster_say(f"  helm install --wait: {place.install():.1f} s")
    place.hand_over()
    yield place
    place.plane.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=300s")


@pytest.fixture
def running(release: Release) -> Iterator[Release]:
    """With slice pod `train` running; it still is afterwards, in the very same process."""
    release.pods.apply(slice_pod("train", 10))
    release.pods.running("train")
    until(lambda: "default/train" in release.holders(), "the NodeLayout names its holder")
    before = release.process("train")
    yield release
    assert release.process("train") == before
    assert release.pods.pod("train")["status"]["phase"] == "Running"


def test_the_readmes_pod_runs_after_helm_install(release: Release) -> None:
    pod = readme_pod()
    release.pods.apply(pod)
    name = pod["metadata"]["name"]
    release.pods.running(name)
    seen = release.pods.environment(name)
    assert (seen["uid"], seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"]) == ("1000", "0=9533M")


def test_replicas_are_as_many_as_the_chart_says_and_not_roots(release: Release) -> None:
    for component, count in (("webhook", 2), ("planner", 2), ("nodeagent", 1)):
        pods = release.settled(component, count)
        for pod in pods:
            pid = release.process(pod["metadata"]["name"], NAMESPACE)
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            assert int(status["CapEff"], 16) == 0
            assert status["NoNewPrivs"] == "1"
            assert (status["Uid"].split()[0] == "0") == (component == "nodeagent")


def test_helm_test_shows_what_a_slice_pod_gets_and_how_a_wrong_one_is_refused(
    release: Release,
) -> None:
    done = release.helm("test", RELEASE, "--timeout=300s")
    said = done.stdout + done.stderr
    assert "  spec.containers[0].securityContext.runAsUser: 1000" in said
    assert "  spec.schedulingGates[0].name: mpslice.io/carve" in said
    assert "MultipleSlices" in said
    left = ("get", "jobs,serviceaccounts,roles,rolebindings,networkpolicies", f"-n={NAMESPACE}")
    assert "mpslice-test" not in release.plane.kubectl(*left, "-o=name").stdout


def test_notes_say_that_no_registry_has_a_local_image(release: Release) -> None:
    assert "Nodes cannot pull localhost/mpslice:" in release.helm("get", "notes", RELEASE).stdout


def test_the_page_is_reached_by_port_forward_alone(release: Release) -> None:
    kubectl = release.plane.kubectl
    kubectl("create", "namespace", "team-a")
    printed = {" ".join(command[:2]): kubectl(*command) for command in page_commands("create")}
    token = printed["create token"].stdout.strip()
    somebody = ("--as=somebody", "--as-group=gpu-users", "--as-group=system:authenticated")
    with release.forwarded("deployment/mpslice-planner", 8082, *somebody) as url:
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            assert b"<title>mpslice</title>" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/events", timeout=DEADLINE)
        asked = urllib.request.Request(f"{url}/events")
        asked.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:
            data = next(line for line in answer if line.startswith(b"data: "))
        assert release.node.name in json.loads(data[6:])["nodes"]
    for pod in release.pods_of("planner"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((pod["status"]["podIP"], 8082), timeout=5)


def page_commands(*beginnings: str) -> list[list[str]]:
    """The words after `kubectl` of commands on the documentation's page."""
    text = (CHART.parent.parent / "docs" / "page.md").read_text().replace("\\\n", " ")
    lines = [line.removeprefix("kubectl ") for line in text.splitlines()]
    return [line.split() for line in lines if line.startswith(beginnings)]


def test_only_slice_pods_get_the_runtime_class_of_the_chart(release: Release) -> None:
    runtime_class = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": RUNTIME_HANDLER,
        "overhead": {"podFixed": {"cpu": "10m"}},
    }
    other = {**runtime_class, "metadata": {"name": "plain"}, "handler": "runc"}
    release.pods.apply(runtime_class, other)
    reminder = "set mps.podRuntimeClassName=nvidia"
    with_gpus = ("upgrade", RELEASE, str(CHART), "--dry-run=server", "--reuse-values")
    notes = release.helm(*with_gpus, "--set-json=simulatedGPUs=[]").stdout
    assert reminder in notes
    release.upgrade("mps.podRuntimeClassName=nvidia")
    notes = release.helm(*with_gpus, "--set-json=simulatedGPUs=[]").stdout
    assert reminder not in notes
    release.until_replaced("webhook")
    plain = slice_pod("plain", 10)
    del plain["spec"]["containers"][0]["resources"]
    release.pods.apply(slice_pod("train", 10), plain)
    release.pods.apply(slice_pod("chosen", 10, runtimeClassName="plain"))
    name, mark = RUNTIME_MARK
    seen = {}
    for pod in ("train", "plain", "chosen"):
        release.pods.running(pod)
        seen[pod] = release.pods.environment(pod).get(name)
    assert seen == {"train": mark, "plain": None, "chosen": None}
    # The API server adds it to a pod of the class, although the class came by our webhook.
    assert release.pods.pod("train")["spec"]["overhead"] == {"cpu": "10m"}
    release.upgrade()
    release.until_replaced("webhook")
    release.plane.kubectl("delete", "runtimeclass", "nvidia", "plain")


def test_upgrade_and_rollback_refuse_nobody(running: Release, cluster_say: Say) -> None:
    revision = running.helm("list", "--output=json").stdout
    with running.requests() as asked:
        seconds = running.upgrade("logLevel=debug", "webhook.podLabels.example=one")
        running.pods.apply(slice_pod("after-upgrade", 20))
        running.pods.running("after-upgrade")
    cluster_say(f"  helm upgrade --wait: {seconds:.1f} s; {asked}")
    assert asked.accepted > 0
    assert not asked.refused
    assert not asked.ungated
    (number,) = re.findall(r'"revision":"(\d+)"', revision)
    with running.requests() as asked:
        running.helm("rollback", RELEASE, number, "--wait", "--timeout=300s")
        running.pods.apply(slice_pod("after-rollback", 20))
        running.pods.running("after-rollback")
    cluster_say(f"  helm rollback --wait: {asked}")
    assert asked.accepted > 0
    assert not asked.refused
    assert not asked.ungated


def test_uninstall_is_refused_while_a_slice_is_used(running: Release) -> None:
    running.pods.apply(slice_pod("waits", 10, schedulingGates=[{"name": "example.com/other"}]))
    refused = running.helm("uninstall", RELEASE, "--timeout=300s", check=False)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert "10gb is held by default/train main" in said
    assert "default/waits carries the gate mpslice.io/carve" in said
    assert running.settled("webhook", 2)
    # Helm now believes that the release is half gone and takes no upgrade; a rollback mends that.
    last = running.helm("list", "--all", "--output=json").stdout
    (number,) = re.findall(r'"revision":"(\d+)"', last)
    running.helm("rollback", RELEASE, number, "--wait", "--timeout=300s")
    running.upgrade()


def test_forced_uninstall_leaves_pods_running_and_reinstall_finds_them(
    running: Release, cluster_say: Say
) -> None:
    with running.requests() as asked:
        running.helm("uninstall", RELEASE, "--no-hooks", "--wait", "--timeout=300s")
        until(lambda: not running.pods_of("nodeagent"), "the agent is gone")
        # Nobody gates or completes it now, and nobody refuses it either.
        assert "default/train" in running.holders()
        seconds = running.install()
    cluster_say(f"  uninstall --no-hooks and install --wait ({seconds:.1f} s): {asked}")
    running.hand_over()
    assert "default/train" in running.holders()
    running.pods.apply(slice_pod("second", 10))
    running.pods.running("second")
    held = until(lambda: len(running.holders()) == 2, "both pods hold a slice")
    assert held
    gpus = (running.layout() or {})["status"]["gpus"]
    ids = [each["id"] for gpu in gpus for each in gpu["slices"] if each["state"] == "Used"]
    assert len(ids) == len(set(ids)) == 2


def test_node_is_handed_back_once_its_last_slice_pod_has_ended(running: Release) -> None:
    key, value = next(iter(NODE_LABEL.items()))
    running.label(**{key: None})
    until(lambda: (running.layout() or {})["spec"].get("release"), "the planner releases the node")
    assert len(running.pods_of("nodeagent")) == 1
    before = running.process("train")
    running.pods.apply(slice_pod("too-late", 10))
    told = until(lambda: running.pods.events("too-late", "SliceUnavailable"), "why it waits")
    assert told
    assert running.process("train") == before
    running.pods.delete("too-late")
    running.label(**{key: value})
    running.hand_over()


def test_gate_goes_from_pods_that_an_uninstall_leaves_behind(release: Release) -> None:
    release.upgrade("uninstall.removeGates=true")
    release.pods.apply(slice_pod("waits", 10, schedulingGates=[{"name": "example.com/other"}]))
    gates = [gate["name"] for gate in release.pods.pod("waits")["spec"]["schedulingGates"]]
    assert gates == ["example.com/other", "mpslice.io/carve"]
    done = release.helm("uninstall", RELEASE, "--wait", "--timeout=300s")
    assert "default/waits: the gate is taken away" in done.stdout + done.stderr
    gates = [gate["name"] for gate in release.pods.pod("waits")["spec"]["schedulingGates"]]
    assert gates == ["example.com/other"]
    left = ("get", "jobs,serviceaccounts,clusterroles,clusterrolebindings", f"-n={NAMESPACE}")
    assert "mpslice-ungate" not in release.plane.kubectl(*left, "-o=name").stdout


def test_unused_release_goes_and_leaves_what_its_data_is(release: Release) -> None:
    key = next(iter(NODE_LABEL))
    release.label(**{key: None})
    until(lambda: release.layout() is None, "the node is handed back")
    until(lambda: not release.pods_of("nodeagent"), "the agent has gone from the node")
    release.helm("uninstall", RELEASE, "--wait", "--timeout=300s")
    for kind in ("deployments", "daemonsets", "services", "configmaps"):
        left = release.plane.kubectl("get", kind, f"-n={NAMESPACE}", "-o=name").stdout.split()
        assert [name for name in left if "kube-root-ca" not in name] == []
    assert release.plane.kubectl("get", "crd", "nodelayouts.mpslice.io", "-o=name").stdout
    (secret,) = release.plane.kubectl("get", "secrets", f"-n={NAMESPACE}", "-o=name").stdout.split()
    assert secret == "secret/mpslice-webhook-tls"
