"""The Jobs of hooks as plain objects on a real API server, and what their accounts may do."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.cluster.controlplane import ControlPlane
from tests.chart import CHART
from tests.e2e.cluster import slice_pod, until
from tests.helm.accounts import NAMESPACE, Account, apply, install_accounts
from tests.waiting import DEADLINE

Json = dict[str, Any]


def hooks(plane: ControlPlane, *values: str) -> list[Json]:
    """What `helm template` prints of hooks to a person that gives no --no-hooks."""
    command = [str(plane.parts.helm), "template", "mpslice", str(CHART)]
    given = [f"--namespace={NAMESPACE}", "--set=uninstall.removeGates=true"]
    done = subprocess.run(
        [*command, *given, *(f"--set={value}" for value in values)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    return [d for d in documents if "helm.sh/hook" in d["metadata"].get("annotations", {})]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    install_accounts(control_plane)
    applied = [*hooks(control_plane), *hooks(control_plane, "image.tag=v2")]
    apply(control_plane, *applied)
    yield control_plane
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": applied})
    words = ("delete", "--ignore-not-found", "--wait=false", "--filename=-")
    control_plane.kubectl(*words, input=manifest)


def test_plain_jobs_stand_in_no_upgrades_way(plane: ControlPlane) -> None:
    listed = plane.api.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")["items"]
    images = sorted(
        (
            job["metadata"]["labels"]["app.kubernetes.io/component"],
            job["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[2],
        )
        for job in listed
    )
    components = ("test", "ungate", "uninstall")
    assert images == [(name, tag) for name in components for tag in ("0.1.0", "v2")]
    assert all(job["spec"]["ttlSecondsAfterFinished"] == 600 for job in listed)


@pytest.mark.parametrize(
    ("account", "may", "may_not"),
    [
        (
            "mpslice-uninstall",
            ["list pods -A", "list nodelayouts"],
            ["get pods", "patch pods", "create pods", "list nodes", "list secrets"],
        ),
        (
            "mpslice-ungate",
            ["list pods -A", "patch pods -A", "get mutatingwebhookconfigurations/mpslice-pods"],
            ["create pods", "delete pods", "list mutatingwebhookconfigurations", "get secrets"],
        ),
        (
            "mpslice-test",
            [f"create pods -n {NAMESPACE}"],
            ["create pods -n default", f"get pods -n {NAMESPACE}", "list nodelayouts"],
        ),
    ],
)
def test_account_of_a_job_may_do_that_and_no_more(
    plane: ControlPlane, account: str, may: list[str], may_not: list[str]
) -> None:
    user = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    for answer, questions in (("yes", may), ("no", may_not)):
        for question in questions:
            said = plane.kubectl("auth", "can-i", *question.split(), user, check=False).stdout
            assert said.strip() == answer, question


def test_account_of_the_test_makes_no_pod(plane: ControlPlane) -> None:
    account = Account(plane, "mpslice-test")
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    pod = slice_pod("asked-for", 10)
    del pod["spec"]["containers"][0]["resources"]
    until(lambda: "dry run only" in account.refusal("POST", path, pod), "the policy is in force")
    assert account.refusal("POST", f"{path}?dryRun=All", pod) == ""


def test_an_account_with_the_role_view_reads_nodelayouts(plane: ControlPlane) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "viewer"}],
    }
    apply(plane, binding)

    def may(*question: str) -> bool:
        return "yes" in plane.kubectl("auth", "can-i", *question, "--as=viewer", check=False).stdout

    until(lambda: may("watch", "nodelayouts"), "the role view has gained NodeLayouts")
    assert not may("patch", "nodelayouts")
    plane.kubectl("delete", "clusterrolebinding", "viewer")
