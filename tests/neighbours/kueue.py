"""Kueue's own manager on a control plane: its chart without the workloads, its program as a process
that acts as the chart's service account, with the certificates that it makes for itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hack.cluster import network
from hack.cluster.api import NotAnswered, healthy
from hack.cluster.controlplane import ControlPlane
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.versions import KUEUE
from hack.cluster.waiting import wait_until
from tests.neighbours import charts
from tests.neighbours.mounted import Mounted
from tests.waiting import DEADLINE
from tests.webhook.cluster import Installation

Json = dict[str, Any]
NAMESPACE = "kueue-system"
ACCOUNT = "kueue-controller-manager"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
GATES = {"kueue.x-k8s.io/admission", "kueue.x-k8s.io/topology"}
"""Of a plain pod; the second is there since its topologies are, whether there is one or not."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_SERVICE = "kueue-webhook-service"
_SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/kueue-webhook-server-cert"
_LEFT_OUT = ("Deployment", "APIService", "PodDisruptionBudget")


@contextmanager
def running(plane: ControlPlane, folder: Path, resources: Json) -> Iterator[Program]:
    """Kueue for Jobs and plain pods, with this part `resources` of its Configuration."""
    folder.mkdir()
    (port,) = network.free_ports(1, plane.address)
    (health,) = network.free_ports(1)
    _install(plane, port)
    configuration = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": plane.address, "port": port, "certDir": str(folder)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {
            "enable": True,
            "webhookServiceName": _SERVICE,
            "webhookSecretName": _SECRET.rpartition("/")[2],
        },
        "integrations": {"frameworks": ["batch/job", "pod"]},
        # The server of another API group, which asks about each caller: nobody here does.
        "featureGates": {"VisibilityOnDemand": False},
        "resources": resources,
    }
    file = folder / "configuration.yaml"
    file.write_text(yaml.safe_dump(configuration))
    account = Installation(plane, folder, NAMESPACE).kubeconfig(ACCOUNT)
    command = (
        str(plane.parts.neighbour(KUEUE) / "kueue"),
        f"--config={file}",
        f"--kubeconfig={account}",
        "--zap-log-level=2",
    )
    ready = f"http://127.0.0.1:{health}/readyz"
    program = Program(plane.cluster, ProcessSpec("kueue", command, lambda: healthy(ready)))
    mounted = Mounted(plane.api, _SECRET, folder)
    mounted.start()
    try:
        program.start()
        wait_until(
            lambda: _called(plane),
            "the API server calls Kueue",
            seconds=DEADLINE,
            details=program.last_lines,
        )
        yield program
    finally:
        program.stop()
        mounted.stop()


def _install(plane: ControlPlane, port: int) -> None:
    kept: list[Json] = []
    for each in charts.rendered(plane, KUEUE, NAMESPACE):
        if (each["kind"], each["metadata"]["name"]) == ("Service", _SERVICE):
            kept += charts.leading_to(plane.address, port, each)
        elif each["kind"] not in _LEFT_OUT:
            kept.append(each)
    charts.install(plane, NAMESPACE, kept)


def _called(plane: ControlPlane) -> bool:
    """Whether a ResourceFlavor would be made now, which Kueue's webhooks have a say in."""
    flavor = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ResourceFlavor",
        "metadata": {"name": f"probe-{os.getpid()}"},
    }
    path = "/apis/kueue.x-k8s.io/v1beta2/resourceflavors?dryRun=All"
    try:
        plane.api.request("POST", path, flavor)
    except NotAnswered:
        return False
    return True


def flavor() -> Json:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ResourceFlavor",
        "metadata": {"name": "default-flavor"},
    }


def local_queue(name: str, queue: str) -> Json:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": name},
        "spec": {"clusterQueue": queue},
    }


def used(plane: ControlPlane, queue: str, resource: str) -> str:
    """How much of a resource a ClusterQueue has given away, as its status says."""
    found = plane.api.get(f"/apis/kueue.x-k8s.io/v1beta2/clusterqueues/{queue}")
    for each in (found.get("status") or {}).get("flavorsUsage") or ():
        for one in each["resources"]:
            if one["name"] == resource:
                return str(one.get("total", "0"))
    return ""
