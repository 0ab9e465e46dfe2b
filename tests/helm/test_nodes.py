"""What becomes of nodes under a release: drained, deleted, moved from nos, another MPS user.

The GPUs are simulated; nos is its device plugin's part of the kubelet's API and a pod that is
called as nos calls its own.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hack.cluster.images import BUSYBOX_IMAGE
from hack.cluster.programs import NODE_LABEL
from tests.e2e.cluster import SHOW_AND_STAY, slice_pod, until
from tests.helm.release import RELEASE, Release
from tests.nodeagent.real.foreign_plugin import foreign_plugin
from tests.waiting import DEADLINE

# Before the tests that share the session's node: a machine can have one.
pytestmark = [pytest.mark.usefixtures("machine_without_node")]

KEY, VALUE = next(iter(NODE_LABEL.items()))


@pytest.fixture
def release(place: Release) -> Iterator[Release]:
    """Installed, with the chart's own values; no node is handed over before or after."""
    done = place.helm("status", RELEASE, check=False)
    if done.returncode != 0:
        place.install()
    yield place
    place.plane.kubectl("uncordon", place.node.name)
    place.plane.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=300s")
    place.label(**{KEY: None})
    until(lambda: place.layout() is None, "the node is handed back")


def test_drained_node_gets_no_slice_pod_until_it_is_uncordoned(release: Release) -> None:
    release.hand_over()
    release.pods.apply(slice_pod("train", 10))
    release.pods.running("train")
    drain = ("drain", release.node.name, "--ignore-daemonsets", "--force", "--timeout=300s")
    # The planner and the webhook would go to another node; here there is one.
    release.plane.kubectl(*drain, "--pod-selector=!app.kubernetes.io/name")
    assert release.pods.kubectl("get", "pods", "--output=name") == ""
    assert len(release.pods_of("nodeagent")) == 1
    until(lambda: not release.holders(), "nobody holds its slice")
    release.pods.apply(slice_pod("next", 10))
    told = until(lambda: release.pods.events("next", "SliceUnavailable"), "why it waits")
    assert told == ["10gb: 0 of 1 nodes: 1 Unschedulable"]
    release.plane.kubectl("uncordon", release.node.name)
    release.pods.running("next")


def test_node_that_is_deleted_and_comes_back_gets_slices_anew(release: Release) -> None:
    release.hand_over()
    release.plane.kubectl("delete", "node", release.node.name, "--wait=true")
    until(lambda: release.layout() is None, "the NodeLayout goes with its node")
    release.node.restart_kubelet()
    until(release.node_is_ready, "the node is back")
    release.hand_over()
    release.pods.apply(slice_pod("again", 30))
    release.pods.running("again")


def test_mps_user_changes_while_no_node_is_handed_over(release: Release) -> None:
    release.upgrade("mps.userID=2000")
    release.hand_over()
    # The policy asks for the new user at once; a replica that still drains completes with the old.
    release.until_replaced("webhook")
    release.pods.apply(slice_pod("train", 10))
    release.pods.running("train")
    assert release.pods.environment("train")["uid"] == "2000"
    old = slice_pod("old", 10, securityContext={"runAsUser": 1000})
    assert "RunAsUserMismatch" in release.pods.refused(old)
    release.pods.delete("train")
    release.label(**{KEY: None})
    until(lambda: release.layout() is None, "the node is handed back")
    release.upgrade()
    release.until_replaced("webhook")


def test_node_moves_from_nos_once_its_last_pod_has_ended(release: Release) -> None:
    """The steps of docs/moving-from-nos.md: another label first, then node by node."""
    own = "mpslice.io/enabled"
    release.upgrade(f"nodeLabel.key={own}", "nodeLabel.value=yes", "admission.enforcement=warn")
    release.label(**{KEY: VALUE})
    with nos(release):
        theirs = slice_pod("theirs", 10, hostIPC=True, securityContext={"runAsUser": 1000})
        theirs["spec"]["nodeSelector"] = {KEY: VALUE}
        release.pods.apply(theirs)
        release.pods.running("theirs")
        assert release.layout() is None, "it is nos's by its label"
        process = release.process("theirs")
        # Somebody hands the node over without draining it.
        release.label(**{own: "yes"})
        until(lambda: "1 slice pod of nos" in release.ready_message(), "nos's pod is counted")
        assert release.holders() == set()
    release.pods.delete("nos-plugin")
    assert release.process("theirs") == process
    release.pods.delete("theirs")
    release.label(**{KEY: None})
    release.pods.apply(slice_pod("ours", 10))
    release.pods.running("ours")
    assert "CUDA_MPS_PIPE_DIRECTORY" in release.pods.environment("ours")
    release.pods.delete("ours")
    release.label(**{own: None})
    until(lambda: release.layout() is None, "the node is handed back")
    release.upgrade()


@contextmanager
def nos(release: Release) -> Iterator[None]:
    """nos's device plugin serves two slices of 10gb meanwhile; its pod stays."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "nos-plugin"},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [
                {
                    "name": "nvidia-mps-server",
                    "image": BUSYBOX_IMAGE,
                    "command": ["sh", "-c", SHOW_AND_STAY],
                }
            ],
            "volumes": [
                {
                    "name": "plugins",
                    "hostPath": {"path": str(release.node.device_plugin_dir)},
                }
            ],
        },
    }
    release.pods.apply(pod)
    release.pods.running("nos-plugin")
    loop = asyncio.new_event_loop()
    serving = threading.Thread(target=loop.run_forever)
    serving.start()
    plugin = foreign_plugin(
        release.node.device_plugin_dir,
        "nvidia-gpu-10gb.sock",
        "nvidia.com/gpu-10gb",
        ["GPU-nos::10::0", "GPU-nos::10::1"],
        {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=10G"},
    )
    asyncio.run_coroutine_threadsafe(plugin.__aenter__(), loop).result(DEADLINE)
    try:
        yield
    finally:
        end = plugin.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(end, loop).result(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)
        serving.join()
        loop.close()
