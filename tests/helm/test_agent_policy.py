"""An agent writes its own node's slices and nothing else, by the node's name in its token."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from mpslice.kube.session import Session
from nodeagent.controller import COMPONENT
from tests.e2e.cluster import until
from tests.helm.accounts import NAMESPACE, Account, Json, apply, install_accounts
from tests.waiting import eventually

OWN, OTHER = "policy-own", "policy-other"
LAYOUTS = "/apis/mpslice.io/v1alpha1/nodelayouts"
EVENTS = "/api/v1/namespaces/default/events"
CAPACITY = {"nvidia.com/gpu-10gb": "1"}


def node(name: str) -> Json:
    labels = {"kubernetes.io/hostname": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"someone": "else"}},
    }


def layout(name: str) -> Json:
    return {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": {"name": name},
        "spec": {"gpus": []},
    }


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    install_accounts(control_plane)
    crd = "crd/nodelayouts.mpslice.io"
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=20s", crd)
    apply(control_plane, *(make(name) for name in (OWN, OTHER) for make in (node, layout)))
    status = {"status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "4"}}}
    for name in (OWN, OTHER):
        control_plane.api.request(
            "PATCH", f"/api/v1/nodes/{name}/status", status, "application/merge-patch+json"
        )
    yield control_plane
    control_plane.kubectl("delete", "node", OWN, OTHER)
    control_plane.kubectl("delete", "nodelayout", OWN, OTHER, "--ignore-not-found")


@pytest.fixture(scope="module")
def agent(plane: ControlPlane) -> Account:
    """The agent of OWN; the policies are in force."""
    account = Account(plane, "mpslice-nodeagent", OWN)
    until(
        lambda: write_node(account, OTHER, {"status": {"capacity": CAPACITY}}) != "",
        "the API server enforces the policies",
    )
    until(
        lambda: "NodeLayout" in write_layout(account, OTHER, {"status": {"gpus": []}}),
        "and that of NodeLayouts",
    )
    until(lambda: write_event(account, host=OTHER) != "", "and that of Events")
    return account


def write_node(account: Account, name: str, body: Json) -> str:
    return account.merge(f"/api/v1/nodes/{name}/status?dryRun=All", body)


def write_layout(account: Account, name: str, body: Json) -> str:
    return account.merge(f"{LAYOUTS}/{name}/status?dryRun=All", body)


def event(*, host: str, kind: str = "Node", about: str = OWN, component: str = "") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.1", "namespace": "default"},
        "involvedObject": {"kind": kind, "name": about, "apiVersion": "v1", "namespace": "default"},
        "reason": "Test",
        "message": "Test.",
        "type": "Normal",
        "source": {"component": component or "mpslice-nodeagent", "host": host},
    }


def write_event(
    account: Account, *, host: str, kind: str = "Node", about: str = OWN, component: str = ""
) -> str:
    body = event(host=host, kind=kind, about=about, component=component)
    if kind != "Pod":
        del body["involvedObject"]["namespace"]
    return account.refusal("POST", f"{EVENTS}?dryRun=All", body)


def test_it_writes_its_own_slices(agent: Account) -> None:
    body = {
        "metadata": {"annotations": {"nos.nebuly.com/status-gpu-0-10gb-free": "1"}},
        "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
    }
    assert write_node(agent, OWN, body) == ""
    for applied in ("uid/1", None):
        told = {"metadata": {"annotations": {"mpslice.io/applied-layout": applied}}}
        assert write_node(agent, OWN, told) == ""
    other = {"metadata": {"annotations": {"mpslice.io/applied": "uid/1"}}}
    assert "writes no annotation but those of its slices" in write_node(agent, OWN, other)
    assert write_layout(agent, OWN, {"status": {"observedGeneration": 1, "gpus": []}}) == ""


@pytest.mark.parametrize("gb", ["170", None])
def test_it_writes_and_removes_the_gb_of_its_own_node(agent: Account, gb: str | None) -> None:
    body = {"status": {part: {"mpslice.io/gb": gb} for part in ("capacity", "allocatable")}}
    assert write_node(agent, OWN, body) == ""
    assert "may not write node" in write_node(agent, OTHER, {"status": {"capacity": CAPACITY}})
    for other in ("mpslice.io/gbs", "other.io/gb", "cpu"):
        refused = write_node(agent, OWN, {"status": {"capacity": {other: "1"}}})
        assert "writes no capacity but that of its slices" in refused


def test_another_nodes_status_is_not_its_own(agent: Account) -> None:
    refusal = write_node(agent, OTHER, {"status": {"capacity": CAPACITY}})
    assert f'the mpslice agent of node "{OWN}" may not write node "{OTHER}"' in refusal
    refusal = write_layout(agent, OTHER, {"status": {"gpus": []}})
    assert f'the mpslice agent of node "{OWN}" may not write NodeLayout "{OTHER}"' in refusal


@pytest.mark.parametrize("resource", ["cpu", "nvidia.com/gpu", "nvidia.com/gpu-010gb", "gpu-10gb"])
@pytest.mark.parametrize("kind", ["capacity", "allocatable"])
def test_of_its_own_node_it_writes_no_resource_but_slices(
    agent: Account, kind: str, resource: str
) -> None:
    refusal = write_node(agent, OWN, {"status": {kind: {resource: "7"}}})
    assert f"writes no {kind} but that of its slices" in refusal


def test_it_takes_no_other_resource_away(agent: Account) -> None:
    refusal = write_node(agent, OWN, {"status": {"allocatable": {"cpu": None}}})
    assert "writes no allocatable but that of its slices" in refusal


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"labels": {"node-role.kubernetes.io/control-plane": ""}}, "labels"),
        ({"labels": {"kubernetes.io/hostname": None}}, "labels"),
        ({"annotations": {"someone": "mine"}}, "annotation"),
        ({"annotations": {"someone": None}}, "annotation"),
        ({"finalizers": ["example.org/stay"]}, "finalizers"),
    ],
)
def test_a_write_of_the_status_carries_nothing_else(
    agent: Account, metadata: Json, refused: str
) -> None:
    """Kubernetes lets a write of a node's status change its labels and annotations."""
    assert refused in write_node(agent, OWN, {"metadata": metadata})


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [{"type": "Ready", "status": "True"}]},
        {"addresses": [{"type": "InternalIP", "address": "198.18.0.9"}]},
        {"phase": "Running"},
        {"nodeInfo": {"kubeletVersion": "v0"}},
    ],
    ids=lambda status: str(*status),
)
def test_the_kubelets_part_of_the_status_is_the_kubelets(agent: Account, status: Json) -> None:
    assert "nothing in a node's status but its slices" in write_node(agent, OWN, {"status": status})


def test_a_layouts_labels_are_not_its_own(agent: Account) -> None:
    refusal = write_layout(agent, OWN, {"metadata": {"labels": {"a": "b"}}})
    # A custom resource's status is written without its metadata; the policy stands behind that.
    assert refusal == "" or "nothing of a NodeLayout but its status" in refusal


@pytest.mark.parametrize(("kind", "about"), [("Node", OWN), ("NodeLayout", OWN), ("Pod", "any")])
def test_it_writes_events_in_its_own_name(agent: Account, kind: str, about: str) -> None:
    assert write_event(agent, host=OWN, kind=kind, about=about) == ""


async def test_events_are_accepted_as_the_agent_itself_records_them(
    plane: ControlPlane, agent: Account, tmp_path: Path
) -> None:
    config = str(agent.kubeconfig(tmp_path / "config"))
    async with await Session.connect("test", config) as mine, asyncio.TaskGroup() as tasks:
        recorder = EventRecorder(mine, COMPONENT, host=OWN)
        writing = tasks.create_task(recorder.run())
        about = ObjectRef("v1", "Node", OWN, uid=OWN)
        for _ in range(2):  # the second raises the count of the first
            recorder.record(about, EventType.WARNING, "GPUUnhealthy", "A test.")

        async def counted() -> bool:
            found = await asyncio.to_thread(plane.api.get, EVENTS)
            return [e["count"] for e in found["items"] if e["reason"] == "GPUUnhealthy"] == [2]

        await eventually(counted, "the Event is there, and counted twice")
        writing.cancel()


def test_it_writes_no_events_in_anothers_name(agent: Account) -> None:
    assert "in another's name" in write_event(agent, host=OTHER)
    assert "in another's name" in write_event(agent, host=OWN, component="kubelet")
    assert "about its node and about pods only" in write_event(agent, host=OWN, about=OTHER)


def test_it_changes_no_event_of_anothers(plane: ControlPlane, agent: Account) -> None:
    foreign = event(host=OTHER, component="kubelet", kind="Pod", about="policy-pod")
    plane.api.request("POST", EVENTS, foreign)
    name = foreign["metadata"]["name"]
    taken = {"source": {"component": "mpslice-nodeagent", "host": OWN}, "count": 2}
    assert "in another's name" in agent.merge(f"{EVENTS}/{name}?dryRun=All", taken)


def test_a_token_of_no_node_writes_nothing(plane: ControlPlane, agent: Account) -> None:
    homeless = Account(plane, "mpslice-nodeagent")
    assert 'agent of node "" may not write' in write_node(homeless, OWN, {"status": {}})
    assert 'agent of node "" may not write' in write_layout(homeless, OWN, {"status": {}})
    assert "in another's name" in write_event(homeless, host="")


def test_everybody_else_is_left_alone(plane: ControlPlane, agent: Account) -> None:
    body = {"metadata": {"labels": {"example.org/by": "admin"}}, "status": {"capacity": CAPACITY}}
    path = f"/api/v1/nodes/{OTHER}/status?dryRun=All"
    plane.api.request("PATCH", path, body, "application/merge-patch+json")


def test_policies_name_the_release_namespace(plane: ControlPlane) -> None:
    policies = plane.api.get("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies")[
        "items"
    ]
    ours = [p for p in policies if p["metadata"]["name"].startswith("mpslice-nodeagent-")]
    assert len(ours) == 3
    for policy in ours:
        (condition,) = policy["spec"]["matchConditions"]
        assert f":{NAMESPACE}:mpslice-nodeagent" in condition["expression"]
        assert not policy.get("status", {}).get("typeChecking", {}).get("expressionWarnings")
