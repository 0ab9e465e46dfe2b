"""A control plane of these tests' own: what admission does is felt by every other test."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.parts import Parts
from hack.cluster.progress import to_stderr
from tests.webhook.cluster import AUDIT_LOG, Installation, Replica

_PODS = {"group": "", "resources": ["pods"]}
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Metadata",
            "verbs": ["create"],
            "resources": [{"group": "", "resources": ["pods"]}],
        },
        {"level": "None"},
    ],
}


def auditing(folder: Path) -> tuple[str, str]:
    """Flags of kube-apiserver that log the creation of pods, one JSON object a line."""
    policy = folder / "audit-policy.yaml"
    policy.write_text(json.dumps(_AUDIT_POLICY))
    return (f"--audit-policy-file={policy}", f"--audit-log-path={folder / AUDIT_LOG}")


@pytest.fixture(scope="session")
def installation(
    cluster_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart on a real control plane, without a replica."""
    folder: Path = tmp_path_factory.mktemp("webhook")
    with lifecycle.owned(to_stderr) as cluster:
        flags = auditing(folder)
        plane = controlplane.start(cluster, cluster_parts, to_stderr, apiserver_flags=flags)
        made = Installation(plane, folder)
        made.install()
        yield made
    for program in plane.programs:
        program.stop()  # they have ended; this only takes note of it


@pytest.fixture
def serving(installation: Installation) -> Iterator[Replica]:
    """The chart with its default values, and a replica."""
    installation.install()
    with installation.serving() as replica:
        yield replica


@pytest.fixture
def silent(installation: Installation) -> None:
    """The chart with its default values, and no replica at all."""
    installation.install()
    installation.publish([])
