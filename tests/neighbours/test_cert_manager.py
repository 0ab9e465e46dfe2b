"""`tls.mode: cert-manager` with cert-manager's own controllers and CA injector: certificates are
issued, renewed and signed by a new CA while slice pods are created."""

import base64
import contextlib
import re
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.versions import CERT_MANAGER
from hack.cluster.waiting import wait_until
from tests.neighbours.conftest import install_kinds
from tests.neighbours.mounted import Mounted
from tests.waiting import DEADLINE
from tests.webhook.cluster import NAMESPACE, Installation, Replica
from tests.webhook.load import Record, loaded, tell, two

_CERTIFICATES = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates"
_SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_LEAF, _CA = "mpslice-webhook", "mpslice-webhook-ca"
_VALUES = "tls.mode=cert-manager"


@pytest.fixture(scope="module")
def issued(beside: Installation) -> Iterator[Installation]:
    """mpslice's chart with cert-manager at work."""
    plane = beside.plane
    install_kinds(plane, CERT_MANAGER)
    program = plane.parts.neighbour(CERT_MANAGER) / "cert-manager"
    command = (str(program), f"--kubeconfig={plane.kubeconfig}")
    manager = Program(plane.cluster, ProcessSpec("cert-manager", command))
    manager.start()
    beside.install(_VALUES)
    try:
        wait_until(
            lambda: plane.api.find(f"{_SECRETS}/mpslice-webhook-tls"),
            "cert-manager issues",
            seconds=DEADLINE,
            details=manager.last_lines,
        )
        yield beside
    finally:
        manager.stop()


@contextlib.contextmanager
def serving(installation: Installation, folder: Path) -> Iterator[list[Replica]]:
    """Two replicas that read the certificate that cert-manager wrote, once all trust it."""
    flags = (
        f"--tls-cert-file={folder / 'tls.crt'}",
        f"--tls-private-key-file={folder / 'tls.key'}",
    )
    with (
        Mounted(installation.plane.api, f"{_SECRETS}/mpslice-webhook-tls", folder),
        two(installation, *flags, values=(_VALUES,)) as replicas,
    ):
        wait_until(lambda: _trusted(installation), "the CA injector has written", seconds=DEADLINE)
        yield replicas


def _trusted(installation: Installation) -> bool:
    bundles = _bundles(installation)
    return bool(bundles) and all(bundles) and len(set(bundles)) == 1


def _bundles(installation: Installation) -> list[str]:
    found = []
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        for configuration in installation.plane.api.get(f"{_ADMISSION}/{kind}")["items"]:
            found += [w["clientConfig"].get("caBundle", "") for w in configuration["webhooks"]]
    return found


def _certificate(installation: Installation, secret: str, key: str = "tls.crt") -> bytes:
    data: dict[str, str] = installation.plane.api.get(f"{_SECRETS}/{secret}")["data"]
    return base64.b64decode(data[key])


def renew(installation: Installation, name: str) -> None:
    """What `cmctl renew` does: cert-manager issues the certificate anew at once."""
    path = f"{_CERTIFICATES}/{name}"
    found = installation.plane.api.get(path)
    condition: dict[str, Any] = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "renewed by a test",
        "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    kept = [each for each in found["status"]["conditions"] if each["type"] != "Issuing"]
    patch = {"status": {"conditions": [*kept, condition]}}
    installation.plane.api.request("PATCH", f"{path}/status", patch, "application/merge-patch+json")


def _wait_for_new(installation: Installation, secret: str, before: bytes) -> bytes:
    wait_until(
        lambda: _certificate(installation, secret) != before,
        f"{secret} is renewed",
        seconds=DEADLINE,
    )
    return _certificate(installation, secret)


def _served(replicas: list[Replica], wanted: bytes) -> bool:
    end = x509.load_pem_x509_certificate(wanted).not_valid_after_utc.timestamp()
    return all(_expiry(replica) == end for replica in replicas)


def _expiry(replica: Replica) -> float:
    with urllib.request.urlopen(replica.ops("metrics"), timeout=5) as answer:
        text: str = answer.read().decode()
    (value,) = re.findall(
        r"^mpslice_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE
    )
    return float(value)


def test_certificate_is_issued_and_every_ca_bundle_is_injected(
    issued: Installation, tmp_path: Path
) -> None:
    with serving(issued, tmp_path), loaded(issued) as load:
        authority = _certificate(issued, "mpslice-webhook-tls", "ca.crt")
        bundles = {base64.b64decode(each) for each in _bundles(issued)}
    assert load.failed == 0, load
    assert bundles == {authority}
    assert authority == _certificate(issued, "mpslice-webhook-tls-ca")


def test_renewal_of_the_certificate_fails_nothing(
    issued: Installation, tmp_path: Path, record_property: Record
) -> None:
    with serving(issued, tmp_path) as replicas, loaded(issued) as load:
        for _ in range(3):
            before = _certificate(issued, "mpslice-webhook-tls")
            renew(issued, _LEAF)
            after = _wait_for_new(issued, "mpslice-webhook-tls", before)
            wait_until(partial(_served, replicas, after), "all serve it", seconds=DEADLINE)
    tell(record_property, "three renewals by cert-manager", load)
    assert load.failed == 0, load


def test_rotation_of_the_ca_fails_nothing(
    issued: Installation, tmp_path: Path, record_property: Record
) -> None:
    """The chart's CA keeps its key, so that certificates of before and after are trusted alike."""
    with serving(issued, tmp_path) as replicas, loaded(issued) as load:
        old = _certificate(issued, "mpslice-webhook-tls-ca")
        renew(issued, _CA)
        authority = _wait_for_new(issued, "mpslice-webhook-tls-ca", old)

        def signed_by_the_new() -> bool:
            """The issuer learns of its new Secret a moment later, so the first try may miss it."""
            before = _certificate(issued, "mpslice-webhook-tls")
            renew(issued, _LEAF)
            _wait_for_new(issued, "mpslice-webhook-tls", before)
            return _certificate(issued, "mpslice-webhook-tls", "ca.crt") == authority

        wait_until(signed_by_the_new, "the new CA signs", seconds=DEADLINE, every=1)
        after = _certificate(issued, "mpslice-webhook-tls")
        wait_until(lambda: _served(replicas, after), "all serve it", seconds=DEADLINE)
        # The injector keeps the old CA beside the new one.
        wait_until(
            lambda: all(authority in base64.b64decode(each) for each in _bundles(issued)),
            "every caBundle has the new CA",
            seconds=DEADLINE,
        )
    tell(record_property, "rotation of cert-manager's CA", load)
    assert load.failed == 0, load
