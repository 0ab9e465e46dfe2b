"""What the node's containerd, CNI plugins, kubelet and kube-proxy are told, as data.

Apart from `node`, which starts them: these are the facts about running on a machine that
is not ours alone, each with its reason.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from hack.cluster import cgroups, images, system
from hack.cluster.layout import ClusterDir
from hack.cluster.leftovers import CNI_NETWORK
from hack.cluster.network import Network
from hack.cluster.pki import KeyPair
from hack.cluster.versions import CNI_PLUGINS, RUNC

RUNTIME_HANDLER = "nvidia"
"""A second runtime of the node's containerd, as NVIDIA's toolkit adds one. A pod gets it by a
RuntimeClass with this handler; the cluster has none of its own."""

RUNTIME_MARK = ("MPSLICE_TEST_RUNTIME", RUNTIME_HANDLER)
"""The environment variable that shows in a container that this runtime made."""

_EVICTION_SIGNALS = (
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
)


def second_runtime() -> str:
    """A script: runc, which also writes the mark into each container's own config.json.

    So does NVIDIA's runtime, which is runc with a hook added to that file.
    """
    name, value = RUNTIME_MARK
    return f"""#!/bin/sh
previous=
for word; do
    [ "$previous" = --bundle ] && bundle=$word
    previous=$word
done
case " $* " in
*" create "*) sed -i 's/"env":\\[/"env":["{name}={value}",/' "$bundle/config.json" ;;
esac
exec {system.find(RUNC)} "$@"
"""


def containerd(cluster: ClusterDir, second: Path) -> str:
    """containerd's own file, TOML; images and containers stay in the cluster's folder.

    `second` is the program of the second runtime.
    """
    folder = cluster.containerd
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""version = 3
root = '{folder}/root'
state = '{folder}/state'
disabled_plugins = ['io.containerd.nri.v1.nri']
[grpc]
address = '{cluster.containerd_socket}'
[ttrpc]
address = '{cluster.containerd_socket}.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
path = '{folder}/opt'
[plugins.'io.containerd.cri.v1.images']
snapshotter = '{_snapshotter(cluster.root)}'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{images.SANDBOX_IMAGE}'
[{runtime}]
# A machine that is itself a container may lack CAP_SYS_RESOURCE, and runc then fails.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[{runtime}.cni]
bin_dirs = ['{system.find(CNI_PLUGINS).parent}']
conf_dir = '{cluster.cni}'
[{runtime}.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[{runtime}.containerd.runtimes.runc.options]
BinaryName = '{system.find(RUNC)}'
SystemdCgroup = false
[{runtime}.containerd.runtimes.{RUNTIME_HANDLER}]
runtime_type = 'io.containerd.runc.v2'
[{runtime}.containerd.runtimes.{RUNTIME_HANDLER}.options]
BinaryName = '{second}'
SystemdCgroup = false
"""


def cni(cluster: ClusterDir, network: Network) -> dict[str, object]:
    """Pods stand on the cluster's bridge, with the machine's address as their gateway."""
    first, last = network.pods
    bridge = {
        "type": "bridge",
        "bridge": network.bridge,
        "isGateway": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(cluster.node / "addresses"),
            "ranges": [
                [
                    {
                        "subnet": network.subnet,
                        "rangeStart": first,
                        "rangeEnd": last,
                        "gateway": network.address,
                    }
                ]
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {
        "cniVersion": "1.0.0",
        "name": CNI_NETWORK,
        "plugins": [bridge, {"type": "loopback"}],
    }


def kubelet(cluster: ClusterDir, ca: Path, serving: KeyPair, resolver: Path) -> dict[str, object]:
    """A KubeletConfiguration, but for address and ports."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{cluster.containerd_socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "readOnlyPort": 0,
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.ROOT}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        # Lowering it needs CAP_SYS_RESOURCE, which a container may lack.
        "oomScoreAdj": 0,
        "podLogsDir": str(cluster.pod_logs),
        "volumePluginDir": str(cluster.kubelet / "volume-plugins"),
        "resolvConf": str(resolver),
        # A full disk of the machine must neither evict pods nor collect their images,
        # which no registry could give back.
        "evictionHard": dict.fromkeys(_EVICTION_SIGNALS, "0%"),
        "imageGCHighThresholdPercent": 100,
    }


def kube_proxy(
    node: str, network: Network, kubeconfig: Path, health: int, metrics: int
) -> dict[str, object]:
    """A KubeProxyConfiguration; `health` and `metrics` are its ports."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": network.subnet,
        "healthzBindAddress": f"127.0.0.1:{health}",
        "metricsBindAddress": f"127.0.0.1:{metrics}",
        "oomScoreAdj": 0,
        # The machine's connection tracking is not ours to tune.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _snapshotter(folder: Path) -> str:
    """Overlays do not stack: in a container whose root is one, layers are copied."""
    found = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    return "native" if found.stdout.strip() == "overlayfs" else "overlayfs"
