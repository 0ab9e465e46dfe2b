"""A control plane of these tests' own: what admission does is felt by every other test."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.layout import CHECKOUT
from hack.cluster.parts import Parts
from hack.cluster.pki import Authority
from hack.cluster.progress import to_stderr
from tests.webhook.cluster import AUDIT_LOG, CLIENT_CA, CLIENT_NAME, Installation, Replica

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


def presenting(folder: Path) -> tuple[str, ...]:
    """Flags of kube-apiserver that let it present a certificate to our webhooks.

    The two files are those of docs/security.md, but for their paths.
    """
    authority = Authority(folder, CLIENT_CA)
    pair = authority.client("webhook-client", CLIENT_NAME)
    page = (CHECKOUT / "docs" / "security.md").read_text()
    files = {"AdmissionConfiguration": "admission.yaml", "Config": "webhooks.kubeconfig"}
    moved = {
        "/etc/kubernetes/webhooks.kubeconfig": folder / files["Config"],
        "/etc/kubernetes/pki/webhook-client.crt": pair.certificate,
        "/etc/kubernetes/pki/webhook-client.key": pair.key,
    }
    for kind, file in files.items():
        (text,) = re.findall(rf"```yaml\n([^`]*kind: {kind}\n[^`]*)```", page)
        for before, after in moved.items():
            text = text.replace(before, str(after))
        (folder / file).write_text(text)
    return (f"--admission-control-config-file={folder / files['AdmissionConfiguration']}",)


@pytest.fixture(scope="session")
def installation(
    cluster_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The chart on a real control plane, without a replica."""
    folder: Path = tmp_path_factory.mktemp("webhook")
    with lifecycle.owned(to_stderr) as cluster:
        flags = (*auditing(folder), *presenting(folder))
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
