"""The control plane that tests get is the pinned one, complete, and theirs alone."""

from __future__ import annotations

import json
import re

import pytest

from hack.cluster.controlplane import ControlPlane
from hack.cluster.layout import GO_MODULES
from hack.cluster.versions import COMPONENTS, KUBERNETES, Component
from hack.cluster.waiting import wait_until


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_go_module_pins_the_version_and_the_programs(component: Component) -> None:
    text = (GO_MODULES / component.name / "go.mod").read_text()
    module = re.sub(r"/cmd/.*", "", component.packages[0])
    assert f"{module} v{component.version} " in text
    for package in component.packages:
        assert re.search(rf"^(tool |\t){re.escape(package)}$", text, re.MULTILINE)


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
            seconds=20,
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
        refused = control_plane.kubectl(
            "create", "--filename=-", input=json.dumps(pod), check=False
        )
        assert 'violates PodSecurity "baseline' in refused.stderr
    finally:
        control_plane.kubectl("delete", "namespace", "guarded", "--wait=false")
    assert "validatingadmissionpolicies" in control_plane.kubectl("api-resources").stdout
