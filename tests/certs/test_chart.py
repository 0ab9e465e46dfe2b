"""The chart's `tls:` values: which objects each mode brings, and that none templates a caBundle."""

import subprocess
from typing import Any

import pytest

from hack.cluster.parts import Parts
from tests.chart import render


def kinds(documents: list[dict[str, Any]]) -> list[str]:
    return [document["kind"] for document in documents]


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The spec of the one document of that kind and name."""
    (spec,) = (
        document["spec"]
        for document in documents
        if document["kind"] == kind and document["metadata"]["name"] == name
    )
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("mode", ["self-managed", "secret"])
def test_without_cert_manager_none_of_its_kinds_is_asked_for(
    cluster_parts: Parts, mode: str
) -> None:
    rendered = render(cluster_parts.helm, f"--set=tls.mode={mode}")
    assert not {"Certificate", "Issuer"} & set(kinds(rendered))


@pytest.mark.parametrize("mode", ["self-managed", "secret", "cert-manager"])
def test_no_mode_templates_a_ca_bundle(cluster_parts: Parts, mode: str) -> None:
    rendered = render(cluster_parts.helm, f"--set=tls.mode={mode}")
    configurations = [d for d in rendered if d["kind"].endswith("WebhookConfiguration")]
    assert configurations
    for configuration in configurations:
        for webhook in configuration["webhooks"]:
            assert "caBundle" not in webhook["clientConfig"]


def test_cert_manager_is_asked_for_the_names_that_api_servers_call(cluster_parts: Parts) -> None:
    rendered = render(
        cluster_parts.helm, "--set=tls.mode=cert-manager", "--set=clusterDomain=example.org"
    )
    certificate = named(rendered, "Certificate", "mpslice-webhook")
    name = "mpslice-webhook.mpslice-system.svc"
    assert certificate["dnsNames"] == [name, f"{name}.example.org"]


def test_what_is_trusted_outlives_the_webhooks_certificate(cluster_parts: Parts) -> None:
    rendered = render(cluster_parts.helm, "--set=tls.mode=cert-manager")
    leaf = named(rendered, "Certificate", "mpslice-webhook")
    issuer = named(rendered, "Issuer", leaf["issuerRef"]["name"])
    authority = named(rendered, "Certificate", "mpslice-webhook-ca")
    assert issuer == {"ca": {"secretName": authority["secretName"]}}
    assert authority["secretName"] != leaf["secretName"]
    assert authority["isCA"]
    assert authority["privateKey"]["rotationPolicy"] == "Never"
    assert named(rendered, "Issuer", authority["issuerRef"]["name"]) == {"selfSigned": {}}


def test_an_issuer_of_ones_own_takes_the_place_of_our_ca(cluster_parts: Parts) -> None:
    rendered = render(
        cluster_parts.helm,
        "--set=tls.mode=cert-manager",
        "--set=tls.issuerRef.name=ours",
        "--set=tls.issuerRef.kind=ClusterIssuer",
    )
    (certificate,) = (d["spec"] for d in rendered if d["kind"] == "Certificate")
    assert certificate["issuerRef"] == {"kind": "ClusterIssuer", "name": "ours"}
    assert "Issuer" not in kinds(rendered)


def test_an_unknown_mode_is_refused_with_the_ones_there_are(cluster_parts: Parts) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(cluster_parts.helm, "--set=tls.mode=none")
    choice = "at '/tls/mode': value must be one of 'self-managed', 'cert-manager', 'secret'"
    assert choice in refused.value.stderr
