"""Starts etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

Decides their flags, ports and identities. Apart from the node, because most tests need
only an API server and a scheduler and make their nodes through the API.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hack.cluster import network, pki, system
from hack.cluster.api import Api, NotAnswered, healthy
from hack.cluster.errors import ClusterError
from hack.cluster.layout import ClusterDir
from hack.cluster.network import Network
from hack.cluster.parts import Parts
from hack.cluster.pki import Pki
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.progress import Say, step
from hack.cluster.versions import CONTROL_PLANE_PACKAGES
from hack.cluster.waiting import wait_until

_KUBECTL_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A control plane that runs; what tests and the node use of it."""

    cluster: ClusterDir
    parts: Parts
    network: Network
    pki: Pki
    api: Api
    programs: tuple[Program, ...]

    @property
    def dir(self) -> Path:
        return self.cluster.root

    @property
    def kubeconfig(self) -> Path:
        """Of a cluster administrator."""
        return self.cluster.kubeconfig

    @property
    def address(self) -> str:
        """An address of this machine at which the API server reaches webhooks."""
        return self.network.address

    @property
    def url(self) -> str:
        return self.api.url

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator.

        Raises:
            ClusterError: With `check`, when it fails; says what kubectl said.
        """
        done = subprocess.run(
            [str(self.parts.kubectl), f"--kubeconfig={self.kubeconfig}", *args],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=_KUBECTL_DEADLINE,
        )
        if check and done.returncode != 0:
            raise ClusterError(f"`kubectl {' '.join(args)}` failed: {done.stderr.strip()}")
        return done


def start(
    cluster: ClusterDir, parts: Parts, say: Say, *, apiserver_flags: Sequence[str] = ()
) -> ControlPlane:
    """Start a control plane in an empty folder and wait until it serves.

    `apiserver_flags` are given to kube-apiserver besides its own.

    Raises:
        Unavailable: This machine has not got what is needed.
        ClusterError: A component did not become ready; names its log.
    """
    system.ensure(CONTROL_PLANE_PACKAGES, say)
    bridge = network.create(cluster)
    (apiserver_port,) = network.free_ports(1, bridge.address)
    ports = network.free_ports(4)
    url = f"https://{bridge.address}:{apiserver_port}"
    identities = pki.create(cluster, [bridge.address, bridge.kubernetes_service, "127.0.0.1"])
    admin = identities.authority.client("admin", "mpslice-admin", "system:masters")
    pki.write_kubeconfig(
        cluster.kubeconfig,
        url,
        identities.authority.pair.certificate,
        {"client-certificate": str(admin.certificate), "client-key": str(admin.key)},
    )
    api = Api.connect(url, identities.authority.pair, admin)
    with step(say, "control plane"):
        storage = Program(cluster, _etcd(cluster, parts, ports[0], ports[1]))
        spec = _apiserver(parts, bridge, identities, apiserver_port, ports[0], api)
        server = Program(cluster, replace(spec, command=(*spec.command, *apiserver_flags)))
        controllers = Program(cluster, _controller_manager(parts, identities, url, ports[2]))
        scheduler = Program(cluster, _scheduler(parts, identities, url, ports[3]))
        storage.start(wait=False)
        server.start()
        controllers.start(wait=False)
        scheduler.start(wait=False)
        controllers.wait_ready()
        scheduler.wait_ready()
        wait_until(
            lambda: _pods_can_be_made(api),
            "the default namespace's service account",
            seconds=180,
            details=controllers.last_lines,
        )
    return ControlPlane(
        cluster, parts, bridge, identities, api, (storage, server, controllers, scheduler)
    )


def _pods_can_be_made(api: Api) -> bool:
    """Admission refuses pods until the controllers have made these."""
    namespace = "/api/v1/namespaces/default"
    return bool(
        api.find(f"{namespace}/serviceaccounts/default")
        and api.find(f"{namespace}/configmaps/kube-root-ca.crt")
    )


def _serves(api: Api) -> bool:
    try:
        return bool(api.get("/readyz") == "ok")
    except NotAnswered:
        return False


def _etcd(cluster: ClusterDir, parts: Parts, port: int, peer_port: int) -> ProcessSpec:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    command = (
        str(parts.etcd),
        "--name=mpslice",
        f"--data-dir={cluster.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=mpslice={peer}",
        "--unsafe-no-fsync",  # nothing here outlives the machine's next start
        "--log-level=warn",
    )
    return ProcessSpec("etcd", command, ready=lambda: healthy(f"{client}/health"))


def _apiserver(
    parts: Parts, net: Network, identities: Pki, port: int, etcd_port: int, api: Api
) -> ProcessSpec:
    ca = identities.authority.pair.certificate
    command = (
        str(parts.kubernetes("kube-apiserver")),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--bind-address={net.address}",
        f"--secure-port={port}",
        f"--advertise-address={net.address}",
        f"--service-cluster-ip-range={net.services}",
        f"--client-ca-file={ca}",
        f"--tls-cert-file={identities.server.certificate}",
        f"--tls-private-key-file={identities.server.key}",
        f"--kubelet-certificate-authority={ca}",
        f"--kubelet-client-certificate={identities.kubelet_client.certificate}",
        f"--kubelet-client-key={identities.kubelet_client.key}",
        # The default tries the node's name first, which nobody resolves.
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={identities.service_accounts.certificate}",
        f"--service-account-signing-key-file={identities.service_accounts.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--requestheader-client-ca-file={identities.front_proxy.pair.certificate}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={identities.front_proxy_client.certificate}",
        f"--proxy-client-key-file={identities.front_proxy_client.key}",
        # Webhooks are called at the endpoint's address: no kube-proxy needs to have synced.
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        "--profiling=false",
    )
    return ProcessSpec("kube-apiserver", command, ready=lambda: _serves(api))


def _controller_manager(parts: Parts, identities: Pki, url: str, port: int) -> ProcessSpec:
    cluster = identities.cluster
    kubeconfig = identities.kubeconfig(
        cluster.component_kubeconfig("controller-manager"), url, "system:kube-controller-manager"
    )
    command = (
        str(parts.kubernetes("kube-controller-manager")),
        *_client_flags(kubeconfig, port),
        f"--root-ca-file={identities.authority.pair.certificate}",
        f"--service-account-private-key-file={identities.service_accounts.key}",
        "--use-service-account-credentials=true",
        # 40 controllers each make a service account first; 20 a second would take 4 s.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        # Nodes that tests make through the API have no kubelet to renew their leases.
        "--node-monitor-grace-period=24h",
        "--node-startup-grace-period=24h",
    )
    return ProcessSpec(
        "kube-controller-manager", command, lambda: healthy(f"https://127.0.0.1:{port}/healthz")
    )


def _scheduler(parts: Parts, identities: Pki, url: str, port: int) -> ProcessSpec:
    cluster = identities.cluster
    kubeconfig = identities.kubeconfig(
        cluster.component_kubeconfig("scheduler"), url, "system:kube-scheduler"
    )
    command = (str(parts.kubernetes("kube-scheduler")), *_client_flags(kubeconfig, port))
    return ProcessSpec(
        "kube-scheduler", command, lambda: healthy(f"https://127.0.0.1:{port}/readyz")
    )


def _client_flags(kubeconfig: Path, port: int) -> tuple[str, ...]:
    return (
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={kubeconfig.with_suffix('.serving')}",
        "--leader-elect=false",
        "--profiling=false",
    )
