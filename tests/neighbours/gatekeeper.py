"""Gatekeeper's own manager on a control plane: its chart without the workloads, its program as a
process with the arguments of the chart's Deployment, the rights of the chart's service account and
the certificates that it makes for itself."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster import network
from hack.cluster.api import NotAnswered, healthy
from hack.cluster.controlplane import ControlPlane
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.versions import GATEKEEPER
from hack.cluster.waiting import wait_until
from tests.neighbours import charts
from tests.neighbours.mounted import Mounted
from tests.neighbours.policies import LABEL, label_of
from tests.waiting import DEADLINE
from tests.webhook.cluster import Installation, called

Json = dict[str, Any]
NAMESPACE = "gatekeeper-system"
ACCOUNT = "gatekeeper-admin"
MUTATES = "gatekeeper-mutating-webhook-configuration"
"""Its MutatingWebhookConfiguration, as the chart names it; it sorts before `mpslice-pods`."""
_VALIDATES = "gatekeeper-validating-webhook-configuration"
DONE = "gatekeeper.sh/mutations"
"""The annotation that names the mutators that have changed an object."""
_SERVICE = "gatekeeper-webhook-service"
_SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/gatekeeper-webhook-server-cert"
_POD = "gatekeeper-controller-manager-0"
_LEFT_OUT = ("Deployment", "PodDisruptionBudget")
_VALUES = (
    # Its audit, which makes the kinds of constraints where there are two Deployments, is left out.
    "controllerManager.disableGenerateOperation=false",
    "mutationAnnotations=true",
    "shutdownDelay=0",
    "resourceQuota=false",
    # By default a webhook that is slow is passed over, so that a busy machine would hide a failure.
    *(f"{kind}WebhookFailurePolicy=Fail" for kind in ("mutating", "validating")),
    *(f"{kind}WebhookTimeoutSeconds=10" for kind in ("mutating", "validating")),
)


@contextmanager
def running(
    plane: ControlPlane, folder: Path, *, name: str = MUTATES, reinvocation: str = "Never"
) -> Iterator[Program]:
    """Gatekeeper's webhooks, called for every object of every other namespace.

    `name` is that of its MutatingWebhookConfiguration, by which the order of webhooks goes.
    """
    folder.mkdir()
    (port,) = network.free_ports(1, plane.address)
    health, metrics = network.free_ports(2)
    values = (
        *_VALUES,
        f"mutatingWebhookName={name}",
        f"mutatingWebhookReinvocationPolicy={reinvocation}",
    )
    container = _install(plane, port, values)
    account = Installation(plane, folder, NAMESPACE).kubeconfig(ACCOUNT)
    command = (
        str(plane.parts.neighbour(GATEKEEPER) / "gatekeeper"),
        *container["args"],
        # The last one of a flag holds.
        f"--host={plane.address}",
        f"--port={port}",
        f"--cert-dir={folder}",
        f"--health-addr=127.0.0.1:{health}",
        f"--prometheus-port={metrics}",
        f"--kubeconfig={account}",
    )
    environment = {"POD_NAME": _POD, "POD_NAMESPACE": NAMESPACE, "NAMESPACE": NAMESPACE}
    ready = f"http://127.0.0.1:{health}/readyz"
    spec = ProcessSpec("gatekeeper", command, lambda: healthy(ready), environment=environment)
    program = Program(plane.cluster, spec)
    mounted = Mounted(plane.api, _SECRET, folder)
    mounted.start()
    try:
        program.start()
        _wait_until_written(plane, "the API server calls Gatekeeper", program)
        yield program
    finally:
        plane.kubectl("delete", "mutatingwebhookconfiguration", name)
        plane.kubectl("delete", "validatingwebhookconfiguration", _VALIDATES)
        program.stop()
        mounted.stop()
        _wait_until_written(plane, "the API server calls Gatekeeper no more", program)


def _install(plane: ControlPlane, port: int, values: tuple[str, ...]) -> Json:
    """Applies what of the chart is no workload; the container that the process stands for."""
    arguments = [argument for value in values for argument in ("--set", value)]
    kept: list[Json] = []
    template: Json = {}
    for each in charts.rendered(
        plane, GATEKEEPER, NAMESPACE, "--include-crds", "--no-hooks", *arguments
    ):
        kind, name = each["kind"], each["metadata"]["name"]
        if (kind, name) == ("Service", _SERVICE):
            kept += charts.leading_to(plane.address, port, each)
        elif (kind, name) == ("Deployment", "gatekeeper-controller-manager"):
            template = each["spec"]["template"]
        elif kind not in _LEFT_OUT:
            kept.append(each)
    # Owns what the process says of its state; nobody schedules it.
    metadata = {**template["metadata"], "name": _POD, "namespace": NAMESPACE}
    spec = {**template["spec"], "schedulerName": "nobody"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    webhooks = [each for each in kept if each["kind"].endswith("WebhookConfiguration")]
    others = [each for each in kept if each not in webhooks]
    charts.install(plane, NAMESPACE, others)
    if plane.api.find(f"/api/v1/namespaces/{NAMESPACE}/pods/{_POD}") is None:
        plane.api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
    charts.apply(plane, webhooks)  # last: nothing can be written until the process answers
    (container,) = spec["containers"]
    found: Json = container
    return found


def _wait_until_written(plane: ControlPlane, what: str, program: Program) -> None:
    """Waits until a ConfigMap would be made, which both webhooks are asked about."""
    path = "/api/v1/namespaces/default/configmaps?dryRun=All"
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}

    def written() -> bool:
        try:
            plane.api.request("POST", path, config_map)
        except NotAnswered:
            return False
        return True

    wait_until(written, what, seconds=DEADLINE, details=program.last_lines)


@dataclass(frozen=True)
class Engine:
    """Gatekeeper at work beside mpslice's webhook."""

    installation: Installation

    @property
    def plane(self) -> ControlPlane:
        return self.installation.plane

    def created(self, body: Json, label: str) -> tuple[Json, str]:
        """The pod with this label as it would be stored, {} if it is refused; what is said."""
        labelled = called(body, "p", labels={LABEL: label})
        arguments = ("create", "--dry-run=server", "--filename=-", "--output=json")
        stdout, stderr = self.installation.kubectl(*arguments, objects=[labelled])
        return (json.loads(stdout) if stdout else {}), stderr

    def changed(self, body: Json, *mutators: Json) -> Json:
        """The pod as it would be stored once all these mutators have changed it."""
        self.installation.apply(mutators)
        label = label_of(mutators[0]["metadata"]["name"])
        wanted = {f"{each['kind']}//{each['metadata']['name']}" for each in mutators}

        def by_all() -> Json:
            made, _ = self.created(body, label)
            told = made.get("metadata", {}).get("annotations", {}).get(DONE, "")
            return made if set(re.findall(r"[^, ]+(?=:\d+)", told)) == wanted else {}

        return wait_until(
            by_all,
            f"{wanted} are carried out",
            seconds=DEADLINE,
            details=lambda: str(self.created(body, label)),
        )

    def refused(self, body: Json, rule: Json) -> str:
        """What is said of the pod once this mutator or constraint makes it be refused."""
        self.installation.apply([rule])
        label = label_of(rule["metadata"]["name"])
        return wait_until(
            lambda: self.created(body, label)[1], "the pod is refused", seconds=DEADLINE
        )
