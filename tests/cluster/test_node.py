"""The node that tests get is a real one: its pods run, answer, and see its device plugins."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.cluster import lifecycle, network
from hack.cluster import node as nodes
from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import ClusterError
from hack.cluster.images import BUSYBOX_IMAGE
from hack.cluster.node import Node
from hack.cluster.progress import silent
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE

_SCRIPT = "id -u; sleep 3600"


@pytest.fixture
def busybox_pod(control_plane: ControlPlane, node: Node) -> Iterator[str]:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "busybox"},
        "spec": {
            "nodeName": node.name,
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": BUSYBOX_IMAGE,
                    "command": ["sh", "-c", _SCRIPT],
                    "securityContext": {"runAsUser": 1000},
                }
            ],
        },
    }
    control_plane.kubectl("create", "--filename=-", input=json.dumps(pod))
    yield "busybox"
    control_plane.kubectl("delete", "pod", "busybox", "--wait=true", "--timeout=120s")


def test_pod_runs_and_can_be_looked_into(control_plane: ControlPlane, busybox_pod: str) -> None:
    control_plane.kubectl("wait", "--for=condition=Ready", f"pod/{busybox_pod}", "--timeout=120s")
    printed = wait_until(
        lambda: control_plane.kubectl("logs", busybox_pod).stdout, "its output", seconds=DEADLINE
    )
    assert printed == "1000\n"
    shown = control_plane.kubectl("exec", busybox_pod, "--", "sh", "-c", "echo $((6 * 7))")
    assert shown.stdout == "42\n"


def test_sandbox_reaps_orphans(control_plane: ControlPlane, busybox_pod: str) -> None:
    """With a shared process namespace the sandbox's process is everybody's init."""
    control_plane.kubectl("wait", "--for=condition=Ready", f"pod/{busybox_pod}", "--timeout=120s")
    orphans = "(sleep 0.1 &); (sleep 0.1 &); sleep 0.5"
    control_plane.kubectl("exec", busybox_pod, "--", "sh", "-c", orphans)

    def all_reaped() -> bool:
        zombies = "ps -o stat,comm | grep -c '^Z' || true"
        counted = control_plane.kubectl("exec", busybox_pod, "--", "sh", "-c", zombies)
        return counted.stdout == "0\n"

    wait_until(all_reaped, "no zombie is left", seconds=DEADLINE)


def test_pod_survives_a_restart_of_the_kubelet(
    control_plane: ControlPlane, node: Node, busybox_pod: str
) -> None:
    control_plane.kubectl("wait", "--for=condition=Ready", f"pod/{busybox_pod}", "--timeout=120s")
    before = node.kubelet_pid
    node.restart_kubelet()
    assert node.kubelet_pid != before
    shown = control_plane.kubectl("get", "pod", busybox_pod, "--output=json").stdout
    (status,) = json.loads(shown)["status"]["containerStatuses"]
    assert status["restartCount"] == 0
    assert "running" in status["state"]
    assert (node.device_plugin_dir / "kubelet.sock").is_socket()
    assert node.pod_resources_socket.is_socket()


def test_second_node_on_the_machine_is_refused_with_the_remedy(
    control_plane: ControlPlane, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPSLICE_NODE_WAIT", "0")
    with pytest.raises(ClusterError, match=r"runs the node of the cluster in .*; end that one"):
        nodes.start(control_plane, silent)


def test_second_control_plane_gets_a_network_of_its_own(control_plane: ControlPlane) -> None:
    with lifecycle.owned(silent) as cluster:
        other = network.create(cluster)
        assert other.address != control_plane.address
        assert network.links(cluster) == [other.bridge]
    assert network.links(cluster) == []
