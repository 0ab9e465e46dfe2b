"""What Argo CD and Flux compare: the chart applied again in dry run, and what is in the cluster."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.parts import Parts
from hack.cluster.progress import to_stderr
from hack.cluster.waiting import wait_until
from tests.chart import render
from tests.waiting import DEADLINE
from tests.webhook.cluster import NAMESPACE, Installation, Replica

pytestmark = [pytest.mark.versions]

Json = dict[str, Any]
_CONFIGURATIONS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
VALUES = {
    "defaults": (),
    "everything": (
        "planner.ui.enabled=true",
        "admission.policy.enabled=true",
        "admission.podSecurity.enabled=true",
        "mps.criticalQuota=true",
        "networkPolicies.enabled=true",
        "uninstall.removeGates=true",
    ),
}


@pytest.fixture(scope="module")
def applied(
    cluster_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A control plane of these tests' own, since the whole chart stays on it."""
    with lifecycle.owned(to_stderr) as cluster:
        plane = controlplane.start(cluster, cluster_parts, to_stderr)
        folder: Path = tmp_path_factory.mktemp("gitops")
        yield Installation(plane, folder)
    for program in plane.programs:
        program.stop()  # they have ended; this only takes note of it


def documents(installation: Installation, values: tuple[str, ...]) -> list[Json]:
    arguments = [argument for value in values for argument in ("--set", value)]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return [namespace, *render(installation.plane.parts.helm, *arguments)]


def ask(installation: Installation, *verb: str, objects: list[Json]) -> list[Json]:
    """The objects as kubectl prints them, without what each write and each status changes."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    done = installation.plane.kubectl(*verb, "--filename=-", "--output=json", input=text)
    found: list[Json] = json.loads(done.stdout)["items"]
    for each in found:
        each.pop("status", None)
        for name in ("managedFields", "resourceVersion"):
            each["metadata"].pop(name, None)
        # The deployment controller's own count of its ReplicaSets.
        each["metadata"].get("annotations", {}).pop("deployment.kubernetes.io/revision", None)
    return found


def injected(installation: Installation) -> bool:
    """Whether the webhook has written its CA into every configuration."""
    group = "/apis/admissionregistration.k8s.io/v1"
    return all(
        webhook["clientConfig"].get("caBundle")
        for kind in _CONFIGURATIONS
        for each in installation.plane.api.get(f"{group}/{kind}")["items"]
        for webhook in each["webhooks"]
    )


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_chart_applied_again_changes_nothing(
    applied: Installation, values: tuple[str, ...]
) -> None:
    objects = documents(applied, values)
    applied.apply(objects)
    replica: Replica = applied.replica()
    replica.start()
    try:
        # What the chart leaves to the webhook is there, and must not count as a difference.
        wait_until(lambda: injected(applied), "the webhook writes its CA", seconds=DEADLINE)
        flags = ("apply", "--server-side", "--dry-run=server", "--force-conflicts")
        for _ in range(2):
            live = ask(applied, "get", objects=objects)
            again = ask(applied, *flags, objects=objects)
            assert len(live) == len(objects)
            for one, other in zip(live, again, strict=True):
                assert other == one
    finally:
        replica.stop()
