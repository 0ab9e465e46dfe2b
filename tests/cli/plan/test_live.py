"""`plan --live` on a real API server: the cluster's objects, a person's rights, kubectl's flags."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.controlplane import ControlPlane
from hack.cluster.waiting import wait_until
from tests.cli.conftest import Given
from tests.cli.plan.given import Json, Run, asking, node, pod
from tests.waiting import DEADLINE

NAMESPACE = "plan-live"
LABEL = "plan-live=ours"


def real(name: str, **labels: str) -> Json:
    """A node that is known by feature discovery's labels alone."""
    made = node(name, count="2", **{"nvidia.com/gpu.present": "true", "plan-live-test": "x"})
    made["metadata"]["labels"] |= labels
    del made["metadata"]["labels"]["nos.nebuly.com/gpu-partitioning"]
    # The API server is other tests' too, whose pods are not to be planned here.
    made["spec"] = {"taints": [{"key": "plan-live", "effect": "NoSchedule"}]}
    return made


def wanting(name: str, size: int, **spec: Any) -> Json:
    """A pod that tolerates the nodes of this module."""
    return pod(name, size, tolerations=[{"key": "plan-live", "operator": "Exists"}], **spec)


def ours(run: Run) -> dict[str, str]:
    """Where the pods of this module go."""
    return {key: name for key, name in run.placed.items() if name.startswith("plan-live-")}


def taints(plane: ControlPlane, name: str) -> list[Json]:
    found: list[Json] = plane.api.get(f"/api/v1/nodes/{name}")["spec"]["taints"]
    return found


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Two GPU nodes, of which one is handed over, and a pod on it that holds a slice."""
    nodes = [real("plan-live-1", **{"plan-live": "ours"}), real("plan-live-2")]
    holder = asking("old", {"nvidia.com/gpu-80gb": "1"}, namespace=NAMESPACE)
    holder["spec"] |= {"nodeName": "plan-live-1", "automountServiceAccountToken": False}
    # As admission wants it: tests before may have left its policy in force.
    holder["spec"]["hostIPC"] = True
    allowed = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
    holder["spec"]["containers"][0]["securityContext"] = allowed
    names = {"name": NAMESPACE}
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": names},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": NAMESPACE},
        },
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "plan-live"},
            "value": 7,
        },
        *nodes,
        holder,
    ]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    control_plane.kubectl("apply", "--server-side", "--filename=-", input=manifest)
    # The API server taints a node as not ready when it is made; a controller takes that away.
    wait_until(
        lambda: all(
            len(taints(control_plane, name)) == 1 for name in ("plan-live-1", "plan-live-2")
        ),
        "the nodes have their own taint alone",
        seconds=DEADLINE,
    )
    yield control_plane
    # No kubelet ends it.
    control_plane.kubectl("delete", "pod", "old", f"--namespace={NAMESPACE}", "--force")
    for name in ("plan-live-1", "plan-live-2"):
        control_plane.kubectl("delete", "node", name, "--wait=false")
    control_plane.kubectl("delete", "priorityclass", "plan-live", "--wait=false")
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_plan_sees_what_the_cluster_holds_and_what_the_file_wants(
    cluster: ControlPlane, run: Run, given: Given
) -> None:
    pods = [wanting(f"p{i}", 80, priorityClassName="plan-live" if i else "") for i in range(2)]
    file = given(*pods)
    flags = (f"--kubeconfig={cluster.kubeconfig}", f"--node-label={LABEL}", "-n", NAMESPACE)
    run("plan", "--live", "-f", file, *flags, "-o", "json")
    assert ours(run) == {f"{NAMESPACE}/p1": "plan-live-1"}  # the class is the cluster's
    assert f"{NAMESPACE}/p0" in run.unplaced
    run("plan", "--live", "-f", file, *flags, "--assume-label", "plan-live-test", "-o", "json")
    assert len(ours(run)) == 2


def test_namespace_of_the_context_is_that_of_manifests_without_one(
    cluster: ControlPlane, run: Run, given: Given, tmp_path: Path
) -> None:
    config = yaml.safe_load(Path(cluster.kubeconfig).read_text())
    config["contexts"][0]["context"]["namespace"] = NAMESPACE
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    flags = (f"--kubeconfig={kubeconfig}", f"--node-label={LABEL}")
    run("plan", "--live", "-f", given(wanting("p", 10)), *flags, "-o", "name")
    assert f"{NAMESPACE}/p" in run.out.splitlines()


def test_pod_of_the_cluster_may_be_planned_anew(
    cluster: ControlPlane, run: Run, given: Given
) -> None:
    anew = wanting("old", 40)
    anew["metadata"]["namespace"] = NAMESPACE
    flags = (f"--kubeconfig={cluster.kubeconfig}", f"--node-label={LABEL}")
    run("plan", "--live", "-f", given(anew), *flags, "-o", "json")
    assert ours(run) == {f"{NAMESPACE}/old": "plan-live-1"}
    assert f"Pod {NAMESPACE}/old" in run.warnings


def program(component: str, *arguments: str) -> Json:
    """A Deployment as the chart makes it, that runs nothing."""
    labels = {"app.kubernetes.io/name": "mpslice", "app.kubernetes.io/component": component}
    containers = [{"name": "main", "image": "none", "args": list(arguments)}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": component, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


def test_admission_and_planner_decide_as_they_are_installed(
    cluster: ControlPlane, run: Run, given: Given
) -> None:
    webhook = program("webhook", "--allowed-sizes=10gb,20gb", "--listen=:8443", "--unheard-of=1")
    planner = program("planner", f"--node-label={LABEL}", "--max-slices-per-gpu=2")
    items = {"apiVersion": "v1", "kind": "List", "items": [webhook, planner]}
    cluster.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(items))
    pods = [wanting("p", 30), *(wanting(f"q{i}", 10) for i in range(4))]
    flags = ("-f", given(*pods), f"--kubeconfig={cluster.kubeconfig}", "-o", "json")
    try:
        run("plan", "--live", *flags)
        assert [each["reason"] for each in run.json["rejected"]] == ["SizeNotAllowed"]
        assert set(ours(run).values()) == {"plan-live-1"}
        assert len(ours(run)) == 2  # on its free GPU
        run("plan", "--live", *flags, "--max-slices-per-gpu", "48")
        assert len(ours(run)) == 4
    finally:
        cluster.kubectl("delete", "deployment", "webhook", "planner", f"--namespace={NAMESPACE}")


def test_person_without_rights_is_told_which_and_how_to_get_them(
    cluster: ControlPlane, run: Run
) -> None:
    run("plan", "--live", f"--kubeconfig={cluster.kubeconfig}", "--as", "dana")
    assert run.status == 2
    assert run.err.startswith(
        "kubectl mpslice: you may not list nodes: a plan needs them; an administrator "
        "can grant it: kubectl create clusterrole "
    )
    assert "--user=dana" in run.err


def test_context_that_does_not_exist_is_answered_with_those_that_do(
    cluster: ControlPlane, run: Run
) -> None:
    run("plan", "--live", f"--kubeconfig={cluster.kubeconfig}", "--context", "nowhere")
    assert run.status == 2
    assert "it has no context 'nowhere'; its contexts are: " in run.err
    assert run.err.count("\n") == 1


def test_rights_that_are_only_useful_are_warned_of(
    cluster: ControlPlane, run: Run, given: Given
) -> None:
    rules = [{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}]
    kind = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "name": "erin", "apiGroup": kind}
    documents = [
        {
            "apiVersion": f"{kind}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "plan-live"},
            "rules": rules,
        },
        {
            "apiVersion": f"{kind}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "plan-live"},
            "subjects": [subject],
            "roleRef": {"apiGroup": kind, "kind": "ClusterRole", "name": "plan-live"},
        },
    ]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    cluster.kubectl("apply", "--server-side", "--filename=-", input=manifest)
    flags = (f"--kubeconfig={cluster.kubeconfig}", f"--node-label={LABEL}", "--as", "erin")
    try:
        run("plan", "--live", "-f", given(wanting("p", 10)), *flags, "-o", "json")
    finally:
        cluster.kubectl("delete", "clusterrolebinding,clusterrole", "plan-live")
    assert ours(run) == {"default/p": "plan-live-1"}
    told = [each["message"] for each in run.json["warnings"] if each["reason"] == "Forbidden"]
    assert any("list namespaces: labels of namespaces count as absent" in text for text in told)
