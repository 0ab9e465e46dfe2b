"""Runs mpslice itself on a cluster: the chart's objects, and its programs as processes.

Decides what stands in for the chart's Deployment and DaemonSets. The programs use the
tokens of the chart's own service accounts, so its RBAC is what they really have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
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
from hack.cluster.versions import KUBERNETES
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


def start(plane: ControlPlane, node: Node, say: Say) -> MpslicePrograms:
    """Apply the chart, start the three programs, hand the node over, wait for the gate.

    Raises:
        Unavailable: A program or the chart is missing.
        ClusterError: The chart was refused, or a program did not become ready.
    """
    executables = {name: _executable(name) for name in ("webhook", "planner", "nodeagent")}
    (listen,) = network.free_ports(1, plane.address)
    ops = network.free_ports(3)
    with step(say, "chart helm/mpslice"):
        _apply(plane, [_namespace()])
        _apply(plane, _for_processes(_render(plane), plane.address, listen, ops[0]))
    gpus = plane.cluster.config / "gpus.yaml"
    gpus.write_text(yaml.safe_dump({"gpus": list(SIMULATED_GPUS)}, sort_keys=False))
    webhook = _program(
        plane,
        executables["webhook"],
        ops[0],
        f"--listen={plane.address}:{listen}",
        f"--namespace={NAMESPACE}",
        f"--service-name={WEBHOOK_SERVICE}",
    )
    planner = _program(plane, executables["planner"], ops[1])
    nodeagent = _program(
        plane,
        executables["nodeagent"],
        ops[2],
        f"--node-name={node.name}",
        f"--device-plugin-dir={node.device_plugin_dir}",
        f"--pod-resources-socket={node.pod_resources_socket}",
        f"--simulated-gpus={gpus}",
        f"--mps-root={plane.cluster.mps}",
        node=node.name,
    )
    with step(say, "mpslice's programs"):
        started = (webhook, planner, nodeagent)
        for program in started:
            program.start(wait=False)
        for program in started:
            program.wait_ready()
        _label(plane, node.name)
        wait_until(lambda: gates(plane), "webhook gates", seconds=60, details=webhook.last_lines)
        wait_until(
            lambda: _acknowledged(plane, node.name),
            f"NodeLayout {node.name} acknowledged",
            seconds=60,
            details=lambda: f"{planner.last_lines()}\n{nodeagent.last_lines()}",
        )
    return MpslicePrograms(webhook, planner, nodeagent, gpus)


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
        raise Unavailable(f"{path} is missing; install the project there (`pip install -e .`)")
    return path


def _program(
    plane: ControlPlane, executable: Path, ops_port: int, *flags: str, node: str = ""
) -> Program:
    """A program that serves its health on `ops_port` and acts as its service account.

    Of a pod on `node`, for who knows whose token it is by that.
    """
    kubeconfig = _service_account(plane, executable.name, node)
    command = (
        str(executable),
        f"--kubeconfig={kubeconfig}",
        f"--ops-listen=127.0.0.1:{ops_port}",
        *flags,
    )
    health = f"http://127.0.0.1:{ops_port}/healthz"
    return Program(plane.cluster, ProcessSpec(executable.name, command, lambda: healthy(health)))


def _service_account(plane: ControlPlane, name: str, node: str = "") -> Path:
    """A kubeconfig with a token of the chart's service account `name`, bound to a node if given."""
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
        plane.cluster.component_kubeconfig(name),
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
        timeout=60,
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
            kept.append(_endpoints(document, address, listen, ops))
        kept.append(document)
    return kept


def _endpoints(service: dict[str, Any], address: str, listen: int, ops: int) -> dict[str, Any]:
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
