"""The control plane that tests get is the pinned one, complete, and theirs alone."""

from __future__ import annotations

import json
import re

import pytest

from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import ClusterError
from hack.cluster.layout import GO_MODULES
from hack.cluster.versions import (
    COMPONENTS,
    DEFAULT_KUBERNETES,
    KUBERNETES,
    KUBERNETES_VARIABLE,
    KUBERNETES_VERSIONS,
    NEIGHBOURS,
    Component,
    chosen_kubernetes,
    kubernetes,
    minor_of,
)
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE

EVERY = (*COMPONENTS, *NEIGHBOURS, *map(kubernetes, KUBERNETES_VERSIONS))


@pytest.mark.parametrize("component", EVERY, ids=lambda component: component.key)
def test_go_module_pins_the_version_and_the_programs(component: Component) -> None:
    text = (GO_MODULES / component.module / "go.mod").read_text()
    own = component.packages == (".",)
    module = r"\S+" if own else re.escape(re.sub(r"/cmd/.*", "", component.packages[0]))
    assert re.search(rf"{module} v{re.escape(component.version)}( |$)", text, re.MULTILINE)
    if own:
        assert (GO_MODULES / component.module / "main.go").exists()
        return
    for package in component.packages:
        assert re.search(rf"^(tool |\t){re.escape(package)}$", text, re.MULTILINE)


def test_variable_chooses_the_version_by_its_minor() -> None:
    assert chosen_kubernetes({}) == DEFAULT_KUBERNETES
    for version in KUBERNETES_VERSIONS:
        assert chosen_kubernetes({KUBERNETES_VARIABLE: minor_of(version)}) == version
        assert chosen_kubernetes({KUBERNETES_VARIABLE: version}) == version
    with pytest.raises(ClusterError, match=r"MPSLICE_KUBERNETES=1\.3 is none of 1\.33, "):
        chosen_kubernetes({KUBERNETES_VARIABLE: "1.3"})


def test_staging_modules_of_a_version_are_of_that_version() -> None:
    for version in KUBERNETES_VERSIONS:
        text = (GO_MODULES / kubernetes(version).module / "go.mod").read_text()
        replaced = re.findall(r"^\t(k8s\.io/\S+) => \1 v0\.(\S+)$", text, re.MULTILINE)
        assert len(replaced) > 25
        assert {found for _, found in replaced} == {version.partition(".")[2]}


def test_server_and_client_have_the_pinned_version(control_plane: ControlPlane) -> None:
    versions = json.loads(control_plane.kubectl("version", "--output=json").stdout)
    assert versions["serverVersion"]["gitVersion"] == f"v{KUBERNETES.version}"
    assert versions["clientVersion"]["gitVersion"] == f"v{KUBERNETES.version}"


def test_pod_is_scheduled_to_a_node_made_through_the_api(control_plane: ControlPlane) -> None:
    made = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "paper", "labels": {"paper": "true"}},
    }
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "ready"}
    amounts = {"cpu": "1", "memory": "1Gi", "pods": "10"}
    status = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "on-paper"},
        "spec": {
            "nodeSelector": {"paper": "true"},
            "containers": [{"name": "main", "image": "none"}],
        },
    }
    control_plane.kubectl("create", "--filename=-", input=json.dumps(made))
    try:
        control_plane.kubectl(
            "patch", "node", "paper", "--subresource=status", f"--patch={json.dumps(status)}"
        )
        control_plane.kubectl("create", "--filename=-", input=json.dumps(pod))
        bound = wait_until(
            lambda: control_plane.api.get("/api/v1/namespaces/default/pods/on-paper")["spec"].get(
                "nodeName"
            ),
            "the pod is bound",
            seconds=DEADLINE,
        )
        assert bound == "paper"
    finally:
        control_plane.kubectl("delete", "pod", "on-paper", "--force", "--ignore-not-found")
        control_plane.kubectl("delete", "node", "paper")


def test_service_account_may_do_nothing_before_rbac_says_so(control_plane: ControlPlane) -> None:
    allowed = control_plane.kubectl(
        "auth", "can-i", "list", "pods", "--as=system:serviceaccount:default:default", check=False
    )
    assert allowed.stdout.strip() == "no"


def test_pod_security_and_admission_policies_are_on(control_plane: ControlPlane) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "guarded",
            "labels": {"pod-security.kubernetes.io/enforce": "baseline"},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "host-ipc", "namespace": "guarded"},
        "spec": {"hostIPC": True, "containers": [{"name": "main", "image": "none"}]},
    }
    control_plane.kubectl("create", "--filename=-", input=json.dumps(namespace))
    try:

        def refused() -> bool:
            """By the policy, and no more because the namespace has no account yet."""
            done = control_plane.kubectl(
                "create", "--filename=-", input=json.dumps(pod), check=False
            )
            assert done.returncode != 0
            return 'violates PodSecurity "baseline' in done.stderr

        wait_until(refused, "Pod Security refuses it", seconds=DEADLINE)
    finally:
        control_plane.kubectl("delete", "namespace", "guarded", "--wait=false")
    assert "validatingadmissionpolicies" in control_plane.kubectl("api-resources").stdout
