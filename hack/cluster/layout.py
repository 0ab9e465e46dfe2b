"""Every folder and file of the harness, so that no other module joins paths.

One type owns the shared cache, another the folder of one cluster; a third names what
Kubernetes fixes for the whole machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.versions import Component

CHECKOUT = Path(__file__).resolve().parents[2]
GO_MODULES = Path(__file__).resolve().parent / "go"
CHART = CHECKOUT / "helm" / "mpslice"

DEVICE_PLUGIN_DIR = Path("/var/lib/kubelet/device-plugins")
"""Fixed by the kubelet, whatever its --root-dir."""
CONTAINER_LOG_LINKS = Path("/var/log/containers")
"""Fixed by the kubelet too: symbolic links to the logs of containers."""
CNI_RESULTS = Path("/var/lib/cni/results")
"""Where libcni keeps what it once configured; containerd cannot move it."""


@dataclass(frozen=True, slots=True)
class Cache:
    """What is obtained once and used by every cluster: `$MPSLICE_CACHE`."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        configured = os.environ.get("MPSLICE_CACHE")
        return cls(Path(configured) if configured else Path.home() / ".cache" / "mpslice")

    @property
    def lock(self) -> Path:
        return self.root / "parts.lock"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def go(self) -> Path:
        """Go's module and build caches; dropped when everything is built (4 GB)."""
        return self.root / "go"

    @property
    def toolchain(self) -> Path:
        return self.root / "toolchain"

    @property
    def runs(self) -> Path:
        """The folders of clusters that test runs own."""
        return self.root / "runs"

    @property
    def images(self) -> Path:
        """Layers and archives of mpslice's own image."""
        return self.root / "images"

    def component(self, component: Component) -> Path:
        return self.root / "parts" / component.key


@dataclass(frozen=True, slots=True)
class ClusterDir:
    """The folder of one cluster; its path is the cluster's identity on the machine."""

    root: Path

    @classmethod
    def detached(cls) -> ClusterDir:
        """The one that `up` starts and `down` stops."""
        configured = os.environ.get("MPSLICE_CLUSTER_DIR")
        return cls(Path(configured).resolve() if configured else Cache.default().root / "cluster")

    @property
    def lock(self) -> Path:
        """Held by the process that owns the cluster, for as long as it lives."""
        return self.root.with_name(self.root.name + ".lock")

    @property
    def state(self) -> Path:
        return self.root / "cluster.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def mps(self) -> Path:
        return self.root / "mps"

    @property
    def node(self) -> Path:
        return self.root / "node"

    @property
    def kubelet(self) -> Path:
        return self.node / "kubelet"

    @property
    def pod_resources_socket(self) -> Path:
        return self.kubelet / "pod-resources" / "kubelet.sock"

    @property
    def pod_logs(self) -> Path:
        return self.node / "pods"

    @property
    def containerd(self) -> Path:
        return self.node / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return self.containerd / "containerd.sock"

    @property
    def cni(self) -> Path:
        return self.node / "cni"

    def component_kubeconfig(self, name: str) -> Path:
        return self.config / f"{name}.kubeconfig"
