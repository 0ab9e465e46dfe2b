"""Runs mpslice itself on a cluster: the chart's objects, and its programs as processes.

Decides what stands in for the chart's Deployment and DaemonSets. The programs use the
tokens of the chart's own service accounts, so its RBAC is what they really have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hack.cluster import network, pki
from hack.cluster.api import NotAnswered, healthy
from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import ClusterError, Unavailable
from hack.cluster.layout import CHART
from hack.cluster.node import Node
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.progress import Say, step
from hack.cluster.versions import KUBERNETES, resolves_by_endpoints
from hack.cluster.waiting import wait_until

NAMESPACE = "mpslice-system"
WEBHOOK_SERVICE = "mpslice-webhook"
NODE_LABEL = {"nos.nebuly.com/gpu-partitioning": "mps"}
GATE = "mpslice.io/carve"
SIMULATED_GPUS: tuple[dict[str, Any], ...] = tuple(
    {
        "uuid": f"GPU-00000000-0000-0000-0000-{number:012}",
        "product": "NVIDIA A100-SXM4-80GB",
        "memoryMiB": 81920,
        "reservedMiB": 626,
        "computeCapability": "8.0",
    }
    for number in (1, 2)
)
_WORKLOADS = ("Deployment", "DaemonSet")
_TOKEN_SECONDS = 30 * 24 * 3600
_NODE_LAYOUTS = "/apis/mpslice.io/v1alpha1/nodelayouts"


@dataclass(frozen=True, slots=True)
class MpslicePrograms:
    """mpslice at work on a cluster; each program can be killed and restarted."""

    webhook: Program
    planner: Program
    nodeagent: Program
    simulated_gpus: Path
    """The file the node agent reads its GPUs from; it may be changed meanwhile."""

    @property
    def programs(self) -> tuple[Program, ...]:
        """In the order in which they are stopped."""
        return (self.nodeagent, self.planner, self.webhook)


@dataclass(frozen=True, slots=True)
class Core:
    """What no node is needed for; neither program has been started yet."""

    webhook: Program
    planner: Program
    planner_ops: str
    """Where the planner tells its metrics: the URL without the path."""


def install(plane: ControlPlane, say: Say, ops: Sequence[int] = ()) -> Core:
    """Apply the chart and prepare webhook and planner, with these ports for health and metrics.

    Raises:
        Unavailable: A program or the chart is missing.
        ClusterError: The chart was refused.
    """
    for name in ("webhook", "planner"):
        _executable(name)  # before anything is applied
    (listen,) = network.free_ports(1, plane.address)
    ops = ops or network.free_ports(2)
    with step(say, "chart helm/mpslice"):
        _apply(plane, [_namespace()])
        _apply(plane, _for_processes(_render(plane), plane.address, listen, ops[0]))
    webhook = program_of(
        plane,
        "webhook",
        ops[0],
        f"--listen={plane.address}:{listen}",
        f"--namespace={NAMESPACE}",
        f"--service-name={WEBHOOK_SERVICE}",
    )
    planner = program_of(plane, "planner", ops[1])
    return Core(webhook, planner, f"http://127.0.0.1:{ops[1]}")


def start(plane: ControlPlane, node: Node, say: Say) -> MpslicePrograms:
    """Apply the chart, start the three programs, hand the node over, wait for the gate.

    Raises:
        Unavailable: A program or the chart is missing.
        ClusterError: The chart was refused, or a program did not become ready.
    """
    _executable("nodeagent")
    ops = network.free_ports(3)  # at once: a port that nobody listens on yet may be given twice
    core = install(plane, say, ops[:2])
    gpus = plane.cluster.config / "gpus.yaml"
    gpus.write_text(yaml.safe_dump({"gpus": list(SIMULATED_GPUS)}, sort_keys=False))
    nodeagent = program_of(
        plane,
        "nodeagent",
        ops[2],
        f"--node-name={node.name}",
        f"--device-plugin-dir={node.device_plugin_dir}",
        f"--pod-resources-socket={node.pod_resources_socket}",
        f"--simulated-gpus={gpus}",
        f"--mps-root={plane.cluster.mps}",
        node=node.name,
    )
    with step(say, "mpslice's programs"):
        started = (core.webhook, core.planner, nodeagent)
        for program in started:
            program.start(wait=False)
        for program in started:
            program.wait_ready()
        _label(plane, node.name)
        wait_until_gated(plane, core)
        wait_until(
            lambda: _acknowledged(plane, node.name),
            f"NodeLayout {node.name} acknowledged",
            seconds=180,
            details=lambda: f"{core.planner.last_lines()}\n{nodeagent.last_lines()}",
        )
    return MpslicePrograms(core.webhook, core.planner, nodeagent, gpus)


def wait_until_gated(plane: ControlPlane, core: Core) -> None:
    """Raises ClusterError when the webhook does not gate slice pods in time."""
    wait_until(lambda: gates(plane), "webhook gates", seconds=180, details=core.webhook.last_lines)


def gates(plane: ControlPlane) -> bool:
    """Whether every webhook has its caBundle and a slice pod would be gated now."""
    group = "/apis/admissionregistration.k8s.io/v1"
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        for configuration in plane.api.get(f"{group}/{kind}")["items"]:
            webhooks = configuration.get("webhooks", [])
            if not all(webhook["clientConfig"].get("caBundle") for webhook in webhooks):
                return False
    container = {
        "name": "main",
        "image": "none",
        "resources": {"limits": {"nvidia.com/gpu-10gb": "1"}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "harness-probe"},
        "spec": {"containers": [container]},
    }
    try:
        made = plane.api.request("POST", "/api/v1/namespaces/default/pods?dryRun=All", pod)
    except NotAnswered:
        return False  # the API server learns of the new caBundle a moment later
    return {"name": GATE} in made["spec"].get("schedulingGates", [])


def _executable(name: str) -> Path:
    path = Path(sys.executable).parent / f"mpslice-{name}"
    if not path.exists():
        install = "install the project there (`pip install -e .[programs]`)"
        raise Unavailable(f"{path} is missing; {install}")
    return path


def program_of(
    plane: ControlPlane, name: str, ops_port: int, *flags: str, node: str = "", part: str = ""
) -> Program:
    """A program that serves its health on `ops_port` and acts as its service account.

    Of a pod on `node`, for who knows whose token it is by that. `part` names it where there are
    several.
    """
    executable = _executable(name)
    kubeconfig = service_account(plane, executable.name, node, part)
    command = (
        str(executable),
        f"--kubeconfig={kubeconfig}",
        f"--ops-listen=127.0.0.1:{ops_port}",
        *flags,
    )
    health = f"http://127.0.0.1:{ops_port}/healthz"
    part = part or executable.name
    return Program(plane.cluster, ProcessSpec(part, command, lambda: healthy(health)))


def service_account(plane: ControlPlane, name: str, node: str = "", file: str = "") -> Path:
    """A kubeconfig with a token of the chart's service account `name`, bound to a node if given.

    `file` names it where one account has several.
    """
    spec: dict[str, Any] = {"expirationSeconds": _TOKEN_SECONDS}
    if node:
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Node", "name": node}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": spec,
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token"
    try:
        token = plane.api.request("POST", path, request)["status"]["token"]
    except NotAnswered as error:
        raise ClusterError(
            f"no token for service account {NAMESPACE}/{name}, which the chart should make: {error}"
        ) from error
    return pki.write_kubeconfig(
        plane.cluster.component_kubeconfig(file or name),
        plane.url,
        plane.pki.authority.pair.certificate,
        {"token": token},
    )


def _namespace() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _render(plane: ControlPlane) -> list[dict[str, Any]]:
    if not (CHART / "Chart.yaml").exists():
        raise Unavailable(f"{CHART} holds no chart; run from a whole checkout")
    rendered = subprocess.run(
        [
            str(plane.parts.helm),
            "template",
            "mpslice",
            str(CHART),
            f"--namespace={NAMESPACE}",
            f"--kube-version=v{KUBERNETES.version}",
            "--no-hooks",
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    if rendered.returncode != 0:
        raise ClusterError(f"`helm template` failed: {rendered.stderr.strip()}")
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def _for_processes(
    documents: Iterable[dict[str, Any]], address: str, listen: int, ops: int
) -> list[dict[str, Any]]:
    """The chart's objects without workloads; the webhook's Service leads to our process."""
    kept: list[dict[str, Any]] = []
    for document in documents:
        if document["kind"] in _WORKLOADS:
            continue
        if document["kind"] == "Service" and document["metadata"]["name"] == WEBHOOK_SERVICE:
            # With a selector, its endpoints would be taken from pods, of which there are none.
            document["spec"].pop("selector", None)
            piece = _endpoint_slice(document, address, listen, ops)
            kept.append(piece)
            if resolves_by_endpoints(KUBERNETES.version):
                kept.append(endpoints(NAMESPACE, WEBHOOK_SERVICE, [piece]))
        kept.append(document)
    return kept


def _endpoint_slice(service: dict[str, Any], address: str, listen: int, ops: int) -> dict[str, Any]:
    ports = [
        {
            "name": port.get("name", ""),
            "port": listen if port["port"] == 443 else ops,
            "protocol": "TCP",
        }
        for port in service["spec"]["ports"]
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": WEBHOOK_SERVICE,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": WEBHOOK_SERVICE},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": ports,
    }


def endpoints(namespace: str, service: str, slices: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The Endpoints that say the same as a Service's EndpointSlices, for an old API server."""
    subsets = [
        {"addresses": [{"ip": ip} for ip in endpoint["addresses"]], "ports": piece["ports"]}
        for piece in slices
        for endpoint in piece["endpoints"]
        if endpoint["conditions"]["ready"]
    ]
    # Without it the controller manager would write the slices a second time.
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": service, "namespace": namespace, "labels": labels},
        "subsets": subsets,
    }


def _apply(plane: ControlPlane, documents: list[dict[str, Any]]) -> None:
    manifest = {"apiVersion": "v1", "kind": "List", "items": documents}
    plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--filename=-", input=json.dumps(manifest)
    )


def _label(plane: ControlPlane, node: str) -> None:
    plane.api.request(
        "PATCH",
        f"/api/v1/nodes/{node}",
        {"metadata": {"labels": NODE_LABEL}},
        "application/merge-patch+json",
    )


def _acknowledged(plane: ControlPlane, node: str) -> bool:
    layout = plane.api.find(f"{_NODE_LAYOUTS}/{node}")
    return bool(layout and len(layout.get("status", {}).get("gpus", [])) == len(SIMULATED_GPUS))
