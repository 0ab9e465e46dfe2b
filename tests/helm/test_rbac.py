"""What each service account of the chart may do, as the API server itself lists it: no more."""

import re

import pytest

from hack.cluster.controlplane import ControlPlane
from tests.chart import render
from tests.helm.accounts import NAMESPACE, install_accounts

Rights = set[tuple[str, str, str]]
"""Resource, name ("" for any) and verbs in the order of the alphabet."""

WEBHOOK: Rights = {
    ("nodelayouts.mpslice.io", "", "get list watch"),
    # Only its own configurations, and of these only what it needs for the caBundle.
    (
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "mpslice-pods",
        "get list patch watch",
    ),
    (
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "mpslice-pods",
        "get list patch watch",
    ),
    (
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "mpslice-workloads",
        "get list patch watch",
    ),
    ("secrets", "", "create"),
    ("secrets", "mpslice-webhook-tls", "get list patch watch"),
}
PLANNER: Rights = {
    ("pods", "", "get list patch watch"),
    ("pods/status", "", "patch"),
    ("nodes", "", "get list patch watch"),
    ("podgroups.scheduling.x-k8s.io", "", "get list watch"),
    (
        "customresourcedefinitions.apiextensions.k8s.io",
        "podgroups.scheduling.x-k8s.io",
        "get list watch",
    ),
    # Which nodes a volume can be reached from, and whether a claim exists.
    ("persistentvolumes", "", "get list watch"),
    ("persistentvolumeclaims", "", "get list watch"),
    # Their labels, which affinity between pods may choose by.
    ("namespaces", "", "get list watch"),
    ("nodelayouts.mpslice.io", "", "create delete get list patch watch"),
    ("events", "", "create get patch"),
    ("leases.coordination.k8s.io", "", "create"),
    ("leases.coordination.k8s.io", "mpslice-planner", "get update"),
}
NODE_AGENT: Rights = {
    ("pods", "", "list watch"),
    ("nodes", "", "get list watch"),
    ("nodes/status", "", "patch"),
    ("nodelayouts.mpslice.io", "", "get list watch"),
    ("nodelayouts.mpslice.io/status", "", "patch"),
    ("events", "", "create get patch"),
}


def rights(plane: ControlPlane, account: str, namespace: str) -> Rights:
    """`kubectl auth can-i --list`, one entry for each resource and name."""
    user = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    groups = ("--as-group=system:serviceaccounts", "--as-group=system:authenticated")
    listed = plane.kubectl("auth", "can-i", "--list", user, *groups, "-n", namespace)
    found: Rights = set()
    for line in listed.stdout.splitlines()[1:]:
        matched = re.match(r"^(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]$", line)
        assert matched, line
        resource, urls, names, verbs = matched.groups()
        if urls:
            continue  # discovery and health, which everybody may read
        for name in names.split() or [""]:
            found.add((resource, name, " ".join(sorted(verbs.split()))))
    return found


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    install_accounts(control_plane)
    return control_plane


@pytest.fixture(scope="module")
def everybodys(plane: ControlPlane) -> Rights:
    """What any account may do without the chart: ask about itself."""
    return rights(plane, "nobody", NAMESPACE)


@pytest.mark.parametrize(
    ("account", "table"),
    [
        ("mpslice-webhook", WEBHOOK),
        ("mpslice-planner", PLANNER),
        ("mpslice-nodeagent", NODE_AGENT),
        ("mpslice-mps", set()),
        ("default", set()),
    ],
)
def test_account_has_the_rights_of_the_table_and_no_others(
    plane: ControlPlane, everybodys: Rights, account: str, table: Rights
) -> None:
    assert rights(plane, account, NAMESPACE) - everybodys == table


def test_only_the_page_lets_the_planner_ask_about_tokens_and_rights(plane: ControlPlane) -> None:
    created = {
        resource
        for document in render(plane.parts.helm, "--set=planner.ui.enabled=true")
        if document["kind"] == "ClusterRole" and document["metadata"]["name"] == "mpslice-planner"
        for rule in document["rules"]
        if rule["verbs"] == ["create"]
        for resource in rule["resources"]
    }
    assert created == {"tokenreviews", "subjectaccessreviews"}


@pytest.mark.parametrize("account", ["mpslice-webhook", "mpslice-planner"])
def test_rights_on_secrets_and_leases_end_with_the_namespace(
    plane: ControlPlane, account: str
) -> None:
    elsewhere = {resource for resource, _, _ in rights(plane, account, "default")}
    assert not {"secrets", "leases.coordination.k8s.io"} & elsewhere


@pytest.mark.parametrize("mode", ["cert-manager", "secret"])
def test_webhook_writes_nothing_where_others_care_for_its_certificate(
    plane: ControlPlane, mode: str
) -> None:
    documents = _roles_of_webhook(plane, mode)
    verbs = {verb for rule in documents for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch"}


def _roles_of_webhook(plane: ControlPlane, mode: str) -> list[dict[str, list[str]]]:
    return [
        rule
        for document in render(plane.parts.helm, f"--set=tls.mode={mode}")
        if document["kind"] in ("Role", "ClusterRole")
        if document["metadata"]["name"] == "mpslice-webhook"
        for rule in document["rules"]
    ]
