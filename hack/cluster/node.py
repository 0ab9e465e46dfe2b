"""Starts one real node: containerd, kubelet and kube-proxy on this machine.

Decides the order in which they start, and that there is one node a machine at a time:
the kubelet has one fixed folder for device plugins, whatever its own root.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import cgroups, configs, images, network, system
from hack.cluster.api import healthy
from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import ClusterError
from hack.cluster.layout import DEVICE_PLUGIN_DIR
from hack.cluster.leftovers import CONTAINERD, machine_locked, node_owners
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.progress import Say, step
from hack.cluster.versions import BUSYBOX, NODE_PACKAGES
from hack.cluster.waiting import wait_until

NAME = "mpslice-node"
_OTHER_NODE_SECONDS = "60"
"""Enough for one that is ending; MPSLICE_NODE_WAIT for those who take turns."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is Ready; what tests use of it."""

    control_plane: ControlPlane
    containerd: Program
    kubelet: Program
    kube_proxy: Program
    name: str = NAME
    device_plugin_dir: Path = DEVICE_PLUGIN_DIR

    @property
    def pod_resources_socket(self) -> Path:
        return self.control_plane.cluster.pod_resources_socket

    @property
    def kubelet_pid(self) -> int:
        return self.kubelet.pid

    @property
    def programs(self) -> tuple[Program, ...]:
        """In the order in which they are stopped."""
        return (self.kubelet, self.kube_proxy, self.containerd)

    def restart_kubelet(self) -> None:
        """Returns when the new kubelet serves; pods are re-admitted meanwhile."""
        self.kubelet.restart()

    def import_image(self, archive: Path) -> None:
        """Make the images of an OCI archive available to pods."""
        _import_image(self.control_plane, archive)


def start(plane: ControlPlane, say: Say) -> Node:
    """Start the node and wait until it is Ready and free of taints.

    Raises:
        Unavailable: This machine has not got what is needed.
        ClusterError: A component did not become ready, or the machine has a node.
    """
    check_machine(say)
    with _one_node_at_a_time(), step(say, f"node {NAME}"):
        plane.cluster.node.mkdir()
        cgroups.create()
        containerd = Program(plane.cluster, _containerd(plane))
        containerd.start()
        archive = plane.cluster.node / "images.tar"
        images.write_archive(images.busybox_images(system.find(BUSYBOX)), archive)
        _import_image(plane, archive)
        kubelet, kube_proxy = Program(plane.cluster, _kubelet(plane)), _kube_proxy(plane)
        kube_proxy.start(wait=False)
        kubelet.start()
        wait_until(
            lambda: _schedulable(plane),
            f"node {NAME} Ready",
            seconds=180,
            details=kubelet.last_lines,
        )
        kube_proxy.wait_ready()
    return Node(plane, containerd, kubelet, kube_proxy)


def check_machine(say: Say) -> None:
    """Raises Unavailable unless this machine can be a node; installs what it lacks."""
    system.require_root("a real node")
    system.ensure(NODE_PACKAGES, say)


@contextmanager
def _one_node_at_a_time() -> Iterator[None]:
    """Holds the machine's lock while a node starts; then its processes show that it runs."""
    deadline = time.monotonic() + float(os.environ.get("MPSLICE_NODE_WAIT", _OTHER_NODE_SECONDS))
    while True:
        with machine_locked():
            others = node_owners()
            if not others:
                _refuse_foreign_kubelet()
                yield
                return
        # Not under the lock: whoever ends that node needs it.
        if time.monotonic() > deadline:
            raise ClusterError(
                f"this machine runs the node of the cluster in {others.pop()}, and the folder "
                f"{DEVICE_PLUGIN_DIR} serves one; end that one first "
                "(`python -m hack.cluster down`, or the test run that owns it)"
            )
        time.sleep(0.2)


def _refuse_foreign_kubelet() -> None:
    if _answers(DEVICE_PLUGIN_DIR / "kubelet.sock"):
        raise ClusterError(
            f"a kubelet that is not ours serves {DEVICE_PLUGIN_DIR}; a second one would break "
            "it, so use a machine that is no Kubernetes node"
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        return client.connect_ex(str(path)) == 0


def _schedulable(plane: ControlPlane) -> bool:
    node = plane.api.find(f"/api/v1/nodes/{NAME}")
    if node is None or node["spec"].get("taints"):
        return False
    conditions = node["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _containerd(plane: ControlPlane) -> ProcessSpec:
    cluster, parts = plane.cluster, plane.parts
    folder = cluster.containerd
    config = cluster.config / "containerd.toml"
    _write_cni(plane)
    second = cluster.config / "runc-nvidia"
    _write(second, configs.second_runtime())
    second.chmod(0o755)
    _write(config, configs.containerd(cluster, second))
    search = f"{parts.containerd_bin}:{os.environ.get('PATH', os.defpath)}"
    command = (str(parts.containerd_bin / "containerd"), f"--config={config}")

    def ready() -> bool:
        return cluster.containerd_socket.exists() and _ctr(plane, "version").returncode == 0

    folder.mkdir(parents=True)
    return ProcessSpec(CONTAINERD, command, ready, environment={"PATH": search})


def _write_cni(plane: ControlPlane) -> None:
    conflist = configs.cni(plane.cluster, plane.network)
    _write(plane.cluster.cni / "10-mpslice.conflist", json.dumps(conflist, indent=2))


def _import_image(plane: ControlPlane, archive: Path) -> None:
    done = _ctr(plane, "--namespace=k8s.io", "images", "import", "--local", str(archive))
    if done.returncode != 0:
        raise ClusterError(f"importing {archive} failed: {done.stderr.strip()}")


def _ctr(plane: ControlPlane, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(plane.parts.containerd_bin / "ctr"),
            f"--address={plane.cluster.containerd_socket}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )


def _kubelet(plane: ControlPlane) -> ProcessSpec:
    cluster = plane.cluster
    port, health_port = (
        *network.free_ports(1, plane.address),
        *network.free_ports(1),
    )
    serving = plane.pki.authority.server("kubelet-serving", [NAME, plane.address])
    kubeconfig = plane.pki.kubeconfig(
        cluster.component_kubeconfig("kubelet"), plane.url, f"system:node:{NAME}", "system:nodes"
    )
    resolver = cluster.config / "resolv.conf"
    _write(resolver, "")  # nothing in the cluster answers names, and the machine's need not
    config = cluster.config / "kubelet.json"
    ca = plane.pki.authority.pair.certificate
    settings = configs.kubelet(cluster, ca, serving, resolver)
    ports = {"port": port, "healthzPort": health_port}
    _write(config, json.dumps({**settings, **ports, "address": plane.address}, indent=2))
    command = (
        str(plane.parts.kubernetes("kubelet")),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={cluster.kubelet}",
        f"--hostname-override={NAME}",
        f"--node-ip={plane.address}",
    )
    return ProcessSpec(
        "kubelet", command, lambda: healthy(f"http://127.0.0.1:{health_port}/healthz")
    )


def _kube_proxy(plane: ControlPlane) -> Program:
    cluster = plane.cluster
    health, metrics = network.free_ports(2)
    kubeconfig = plane.pki.kubeconfig(
        cluster.component_kubeconfig("kube-proxy"), plane.url, "system:kube-proxy"
    )
    config = cluster.config / "kube-proxy.json"
    settings = configs.kube_proxy(NAME, plane.network, kubeconfig, health, metrics)
    _write(config, json.dumps(settings, indent=2))
    command = (str(plane.parts.kubernetes("kube-proxy")), f"--config={config}")
    spec = ProcessSpec("kube-proxy", command, lambda: healthy(f"http://127.0.0.1:{health}/healthz"))
    return Program(cluster, spec)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
