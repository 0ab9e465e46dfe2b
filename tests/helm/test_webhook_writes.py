"""The webhook's token writes the caBundles of its configurations and its Secret, and nothing else.

Without the policies it could send every object of the cluster to an address of its choice.
Admission webhooks do not see writes of webhook configurations; admission policies do.
"""

import asyncio
import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from mpslice.kube.session import Session
from tests.certs.replicas import SECRET, Place, replica
from tests.chart import render
from tests.helm.accounts import (
    JSON_PATCH,
    NAMESPACE,
    Account,
    Json,
    Write,
    apply,
    install_accounts,
    type_warnings,
)
from tests.waiting import eventually

_GROUP = "/apis/admissionregistration.k8s.io/v1"
MUTATING = f"{_GROUP}/mutatingwebhookconfigurations/mpslice-pods"
VALIDATING = f"{_GROUP}/validatingwebhookconfigurations/mpslice-pods"
WARNING = f"{_GROUP}/validatingwebhookconfigurations/mpslice-workloads"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
BUNDLE = base64.b64encode(b"any").decode()
NOBODY = {"matchLabels": {"example.org/nobody": "has-it"}}


def configurations(plane: ControlPlane) -> Iterator[Json]:
    """The chart's, for objects that do not exist: nobody serves them here."""
    for document in render(plane.parts.helm):
        if document["kind"].endswith("WebhookConfiguration"):
            for webhook in document["webhooks"]:
                webhook["objectSelector"] = NOBODY
            yield document


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    install_accounts(control_plane)
    ours = list(configurations(control_plane))
    apply(control_plane, *ours)
    yield control_plane
    for document in ours:
        control_plane.kubectl("delete", document["kind"], document["metadata"]["name"])
    control_plane.kubectl("delete", "secret", SECRET, f"-n={NAMESPACE}", "--ignore-not-found")


@pytest.fixture(scope="module")
def webhook(plane: ControlPlane) -> Account:
    """The webhook's account; its policies are in force."""
    account = Account(plane, "mpslice-webhook")
    labelled = Write(MUTATING, {"metadata": {"labels": {"a": "b"}}})
    account.until_refused(labelled, "metadata of its configurations")
    account.until_refused(Write(SECRETS, secret("other"), "POST"), "no Secret but")
    return account


def secret(name: str, kind: str = "Opaque", **annotations: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "type": kind,
    }


async def test_the_webhooks_own_code_issues_injects_repairs_and_rotates(
    plane: ControlPlane, webhook: Account, tmp_path: Path
) -> None:
    """The Secret made and renewed, and every caBundle written again after it was emptied."""
    plane.kubectl("delete", "secret", SECRET, f"-n={NAMESPACE}", "--ignore-not-found")
    config = str(webhook.kubeconfig(tmp_path / "config"))
    names = {
        "mutating_configurations": ("mpslice-pods",),
        "validating_configurations": ("mpslice-pods", "mpslice-workloads"),
    }

    def bundles() -> list[str]:
        return [
            hook["clientConfig"].get("caBundle", "")
            for path in (MUTATING, VALIDATING, WARNING)
            for hook in plane.api.get(path)["webhooks"]
        ]

    def leaf() -> str:
        return str(plane.api.get(f"{SECRETS}/{SECRET}")["data"]["tls.crt"])

    async with await Session.connect("test", config) as session:
        here = Place(session, NAMESPACE)
        async with replica(here, session, leaf_life=timedelta(seconds=12), **names) as one:
            await one.ready()
            first = leaf()
            assert len(set(bundles())) == 1
            assert bundles()[0]
            emptied = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
            plane.api.request("PATCH", VALIDATING, emptied, JSON_PATCH)

            async def repaired_and_renewed() -> bool:
                now = await asyncio.to_thread(bundles)
                return all(now) and await asyncio.to_thread(leaf) != first

            await eventually(repaired_and_renewed, "a new leaf, and the caBundle")


def _webhooks(path: str, operation: str = "replace", **value: object) -> Write:
    """A JSON patch of one place of the first webhook."""
    ((where, what),) = value.items()
    return Write(
        path,
        [{"op": operation, "path": "/webhooks/0/" + where.replace("__", "/"), "value": what}],
        content_type=JSON_PATCH,
    )


ONLY_BUNDLE = "nothing in its configurations but the caBundle"
ONLY_SECRET = f"no Secret but {SECRET}"
EVERYTHING = {
    "apiGroups": ["*"],
    "apiVersions": ["*"],
    "resources": ["*/*"],
    "operations": ["*"],
    "scope": "*",
}
REFUSED: dict[str, tuple[Write, str]] = {
    "every object of the cluster": (_webhooks(MUTATING, rules=[EVERYTHING]), ONLY_BUNDLE),
    "the same, when only warning": (_webhooks(WARNING, rules=[EVERYTHING]), ONLY_BUNDLE),
    "an address of its own": (
        _webhooks(MUTATING, clientConfig={"url": "https://example.org/mutate", "caBundle": BUNDLE}),
        ONLY_BUNDLE,
    ),
    "another service": (_webhooks(VALIDATING, clientConfig__service__name="evil"), ONLY_BUNDLE),
    "another path": (_webhooks(VALIDATING, clientConfig__service__path="/allow"), ONLY_BUNDLE),
    "fail open": (_webhooks(VALIDATING, failurePolicy="Ignore"), ONLY_BUNDLE),
    "a caBundle and fail open": (
        Write(
            VALIDATING,
            [
                {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": BUNDLE},
                {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"},
            ],
            content_type=JSON_PATCH,
        ),
        ONLY_BUNDLE,
    ),
    "no namespace": (_webhooks(VALIDATING, namespaceSelector=NOBODY), ONLY_BUNDLE),
    "all objects": (_webhooks(VALIDATING, objectSelector={}), ONLY_BUNDLE),
    "no condition": (_webhooks(VALIDATING, matchConditions=[]), ONLY_BUNDLE),
    "a longer timeout": (_webhooks(VALIDATING, timeoutSeconds=30), ONLY_BUNDLE),
    "no webhook": (Write(VALIDATING, {"webhooks": []}), ONLY_BUNDLE),
    "a webhook more": (
        Write(
            MUTATING,
            [
                {
                    "op": "add",
                    "path": "/webhooks/-",
                    "value": {
                        "name": "evil.example.org",
                        "clientConfig": {"url": "https://example.org/"},
                        "rules": [EVERYTHING],
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                    },
                }
            ],
            content_type=JSON_PATCH,
        ),
        ONLY_BUNDLE,
    ),
    "a label": (Write(MUTATING, {"metadata": {"labels": {"a": "b"}}}), "nothing in the metadata"),
    "an annotation": (
        Write(MUTATING, {"metadata": {"annotations": {"cert-manager.io/inject-ca-from": "a/b"}}}),
        "nothing in the metadata",
    ),
    "a finalizer": (
        Write(MUTATING, {"metadata": {"finalizers": ["example.org/stay"]}}),
        "nothing in the metadata",
    ),
    "its configuration gone": (Write(MUTATING, None, "DELETE"), "cannot"),
    "somebody else's configuration": (
        Write(f"{_GROUP}/validatingwebhookconfigurations/other", {"webhooks": []}),
        "cannot",
    ),
    "its policy gone": (
        Write(f"{_GROUP}/validatingadmissionpolicies/mpslice-pods", None, "DELETE"),
        "cannot",
    ),
    "another Secret": (Write(SECRETS, secret("other"), "POST"), ONLY_SECRET),
    # Kubernetes would write that account's token into it, and the webhook may read its own Secret.
    "a Secret for the planner's token": (
        Write(
            SECRETS,
            secret(
                SECRET,
                "kubernetes.io/service-account-token",
                **{"kubernetes.io/service-account.name": "mpslice-planner"},
            ),
            "POST",
        ),
        ONLY_SECRET,
    ),
    "a Secret elsewhere": (
        Write("/api/v1/namespaces/default/secrets", secret(SECRET), "POST"),
        "cannot",
    ),
    "Secrets read": (Write(SECRETS, None, "GET"), "cannot"),
    "a pod": (Write("/api/v1/namespaces/default/pods", None, "GET"), "cannot"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_webhook_may_not_write(webhook: Account, what: str) -> None:
    write, words = REFUSED[what]
    assert words in webhook.ask(write)


@pytest.mark.parametrize("path", [MUTATING, VALIDATING, WARNING])
def test_the_webhook_may_write_a_ca_bundle(webhook: Account, path: str) -> None:
    bundle = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}
    assert webhook.ask(Write(path, [bundle], content_type=JSON_PATCH)) == ""


def test_everybody_else_may_write_the_configurations(plane: ControlPlane, webhook: Account) -> None:
    write = _webhooks(VALIDATING, failurePolicy="Ignore")
    plane.api.request("PATCH", f"{VALIDATING}?dryRun=All", write.body, JSON_PATCH)


def test_the_api_server_finds_nothing_wrong_with_the_policies(plane: ControlPlane) -> None:
    for name in ("configurations", "secrets"):
        assert type_warnings(plane, f"mpslice-webhook-{name}") == []
