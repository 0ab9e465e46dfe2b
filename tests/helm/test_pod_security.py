"""The policy "Pod Security baseline but for hostIPC" beside the API server's own Pod Security.

Each pod is asked for in two namespaces: one of ours, and one that enforces `baseline`.
"""

import random
import re
from collections.abc import Iterator

import pytest

from hack.cluster.api import NotAnswered
from hack.cluster.controlplane import ControlPlane
from tests.e2e.cluster import until
from tests.helm.accounts import STRATEGIC, Json, apply, install_accounts, type_warnings
from tests.helm.pod_security_cases import CONTROLS, Part, pod

OURS, THEIRS = "policy-ours", "policy-baseline"
SLICE = {"nvidia.com/gpu-10gb": "1"}
HOST_IPC = Part(spec={"hostIPC": True})
PARTS = {
    (control, name): part for control, parts in CONTROLS.items() for name, part in parts.items()
}
COMBINATIONS = 300
_ENFORCE = "pod-security.kubernetes.io/enforce"


def namespace(name: str, **labels: str) -> tuple[Json, Json]:
    """It, and the service account that pods are made for."""
    account = {"name": "default", "namespace": name}
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
    )


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """With the chart's policies, but for those that judge slice pods without the webhook."""
    install_accounts(control_plane, "--set=admission.policy.enabled=false")
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        control_plane.kubectl("delete", kind, "mpslice-pods", "--ignore-not-found")
    ours = {_ENFORCE: "privileged", "mpslice.io/pod-security": "baseline-except-host-ipc"}
    apply(control_plane, *namespace(OURS, **ours), *namespace(THEIRS, **{_ENFORCE: "baseline"}))
    until(
        lambda: "mpslice-pod-security" in refusal(control_plane, OURS, pod(HOST_IPC)),
        "the policy is in force",
    )
    yield control_plane
    control_plane.kubectl("delete", "namespace", OURS, THEIRS, "--wait=false")


def refusal(plane: ControlPlane, where: str, body: Json) -> str:
    """Why a pod would be refused in a namespace; "" where it would not be."""
    path = f"/api/v1/namespaces/{where}/pods?dryRun=All"
    return _said(plane, "POST", path, body)


def _said(
    plane: ControlPlane, method: str, path: str, body: Json, content_type: str = "application/json"
) -> str:
    try:
        plane.api.request(method, path, body, content_type)
    except NotAnswered as error:
        return str(error).replace('\\"', '"')
    return ""


def both(plane: ControlPlane, body: Json) -> tuple[str, str]:
    """What is said against a pod by our policy, and by the API server's Pod Security."""
    ours, theirs = (refusal(plane, where, body) for where in (OURS, THEIRS))
    assert not ours or "mpslice-pod-security" in ours, ours
    assert not theirs or 'violates PodSecurity "baseline:latest"' in theirs, theirs
    return ours, theirs


@pytest.fixture(scope="module")
def minor(plane: ControlPlane) -> int:
    """Of the API server's version."""
    return int(re.sub(r"\D", "", plane.api.get("/version")["minor"]))


@pytest.mark.parametrize(("control", "name"), PARTS)
def test_both_judge_each_control_alike(
    plane: ControlPlane, minor: int, control: str, name: str
) -> None:
    part = PARTS[control, name]
    ours, theirs = both(plane, pod(part))
    assert bool(ours) == (not part.allowed), ours
    assert part.words in ours
    if minor >= part.since:
        assert bool(theirs) == bool(ours), theirs


def test_both_judge_combinations_of_controls_alike(plane: ControlPlane, minor: int) -> None:
    """Two to four parts at random, with a fixed seed; those that the API server itself refuses as
    invalid in both namespaces say nothing about either policy."""
    chosen = random.Random(14)
    known = [part for part in PARTS.values() if part.since <= minor]
    compared = 0
    for _ in range(COMBINATIONS):
        body = pod(*chosen.sample(known, chosen.randint(2, 4)))
        ours, theirs = (refusal(plane, where, body) for where in (OURS, THEIRS))
        if "is invalid" in ours and "is invalid" in theirs:
            continue
        compared += 1
        assert ("mpslice-pod-security" in ours) == ("violates PodSecurity" in theirs), (body, ours)
        assert bool(ours) == bool(theirs), (body, ours, theirs)
    assert compared > COMBINATIONS * 2 / 3


def test_a_slice_pod_may_have_host_ipc_here_alone(plane: ControlPlane) -> None:
    ours, theirs = both(plane, pod(HOST_IPC, **SLICE))
    assert ours == ""
    assert "hostIPC=true" in theirs


@pytest.mark.parametrize(
    "limits",
    [{}, {"nvidia.com/gpu": "1"}, {"nvidia.com/gpu-10gb": "0"}, {"nvidia.com/gpu-010gb": "1"}],
    ids=str,
)
def test_a_pod_without_a_slice_may_not(plane: ControlPlane, limits: dict[str, str]) -> None:
    ours, _ = both(plane, pod(HOST_IPC, **limits))
    assert "spec.hostIPC is true, but no container asks for a slice" in ours


@pytest.mark.parametrize(
    ("control", "name"),
    [key for key, part in PARTS.items() if not part.allowed and key[1] != "ipc"],
)
def test_a_slice_pod_is_held_to_every_other_control(
    plane: ControlPlane, control: str, name: str
) -> None:
    part = PARTS[control, name]
    ours, _ = both(plane, pod(part, HOST_IPC, **SLICE))
    assert part.words in ours
    assert "hostIPC" not in ours


def test_all_violations_are_told_at_once(plane: ControlPlane) -> None:
    parts = (PARTS["hostPathVolumes", "hostPath"], PARTS["privileged", "true"], HOST_IPC)
    ours, _ = both(plane, pod(*parts))
    assert (
        f"PodSecurity: namespace {OURS} is labelled "
        "mpslice.io/pod-security=baseline-except-host-ipc: "
        "spec.hostIPC is true, but no container asks for a slice; "
        'volume "data" has a hostPath; container "main" has securityContext.privileged true'
    ) in ours


def test_a_pod_of_many_containers_is_judged_within_the_budget_of_cel(plane: ControlPlane) -> None:
    """200 containers, far more than pods have."""
    body = pod(**SLICE)
    (main,) = body["spec"]["containers"]
    body["spec"]["containers"] = [{**main, "name": f"c{i}"} for i in range(200)]
    assert both(plane, body) == ("", "")
    for container in body["spec"]["containers"]:
        container["securityContext"] = {"privileged": True, "capabilities": {"add": ["NET_RAW"]}}
    ours, theirs = both(plane, body)
    assert "in more places than fit into a message" in ours
    assert theirs


def test_without_host_ipc_nobody_has_an_exception(plane: ControlPlane) -> None:
    install_accounts(plane, "--set=admission.policy.enabled=false,mps.hostIPC=false")
    try:
        until(lambda: both(plane, pod(HOST_IPC, **SLICE))[0], "the policy has no exception")
        assert "spec.hostIPC is true" in both(plane, pod(HOST_IPC, **SLICE))[0]
    finally:
        install_accounts(plane, "--set=admission.policy.enabled=false")
        until(lambda: not both(plane, pod(HOST_IPC, **SLICE))[0], "it has its exception again")


# Changes of pods that were there before the namespaces were labelled.


@pytest.fixture(scope="module")
def bad_pods(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """A privileged pod in each namespace; their paths. The labels are off while they are made."""
    off: dict[str, str | None] = {_ENFORCE: None, "mpslice.io/pod-security": None}
    _label(plane, OURS, off)
    _label(plane, THEIRS, off)
    paths = []
    for where in (OURS, THEIRS):
        until(
            lambda n=where: not refusal(plane, n, pod(PARTS["privileged", "true"])),  # type: ignore[misc]
            "nothing is enforced",
        )
        plane.api.request(
            "POST", f"/api/v1/namespaces/{where}/pods", pod(PARTS["privileged", "true"])
        )
        paths.append(f"/api/v1/namespaces/{where}/pods/judged")
    _label(
        plane,
        OURS,
        {_ENFORCE: "privileged", "mpslice.io/pod-security": "baseline-except-host-ipc"},
    )
    _label(plane, THEIRS, {_ENFORCE: "baseline"})
    until(lambda: all(both(plane, pod(PARTS["privileged", "true"]))), "the labels count again")
    yield paths[0], paths[1]
    for path in paths:
        plane.api.request("DELETE", path, {"gracePeriodSeconds": 0})


def _label(plane: ControlPlane, name: str, labels: dict[str, str | None]) -> None:
    body = {"metadata": {"labels": labels}}
    path = f"/api/v1/namespaces/{name}"
    plane.api.request("PATCH", path, body, "application/merge-patch+json")


def _image(name: str) -> Json:
    return {"spec": {"containers": [{"name": "main", "image": name}]}}


def _debug(**context: object) -> Json:
    container = {"name": "debug", "image": "example.org/debug:1", "securityContext": context}
    return {"spec": {"ephemeralContainers": [container]}}


@pytest.mark.parametrize(
    ("subresource", "change", "refused"),
    [
        ("", {"metadata": {"labels": {"a": "b"}}}, False),
        ("", {"metadata": {"finalizers": ["example.org/stay"]}}, False),
        ("", _image("example.org/image:1"), False),
        ("", _image("example.org/image:2"), True),
        ("/status", {"status": {"phase": "Running"}}, False),
        ("/ephemeralcontainers", _debug(privileged=False), True),
    ],
    ids=["label", "finalizer", "same image", "other image", "status", "ephemeral container"],
)
def test_both_judge_changes_of_older_pods_alike(
    plane: ControlPlane,
    bad_pods: tuple[str, str],
    subresource: str,
    change: Json,
    refused: bool,
) -> None:
    said = [
        _said(plane, "PATCH", f"{path}{subresource}?dryRun=All", change, STRATEGIC)
        for path in bad_pods
    ]
    assert [bool(words) for words in said] == [refused, refused], said


@pytest.fixture
def good_pods(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """A plain pod in each namespace; their paths."""
    paths = [f"/api/v1/namespaces/{where}/pods" for where in (OURS, THEIRS)]
    body = pod()
    body["metadata"]["name"] = "good"
    for path in paths:
        plane.api.request("POST", path, body)
    yield f"{paths[0]}/good", f"{paths[1]}/good"
    for path in paths:
        plane.api.request("DELETE", f"{path}/good", {"gracePeriodSeconds": 0})


@pytest.mark.parametrize(
    ("context", "refused"),
    [
        ({}, False),
        ({"capabilities": {"drop": ["ALL"]}}, False),
        ({"privileged": True}, True),
        ({"capabilities": {"add": ["SYS_PTRACE"]}}, True),
        ({"seccompProfile": {"type": "Unconfined"}}, True),
    ],
    ids=str,
)
def test_both_judge_debug_containers_alike(
    plane: ControlPlane, good_pods: tuple[str, str], context: Json, refused: bool
) -> None:
    said = [
        _said(
            plane, "PATCH", f"{path}/ephemeralcontainers?dryRun=All", _debug(**context), STRATEGIC
        )
        for path in good_pods
    ]
    assert [bool(words) for words in said] == [refused, refused], said
    assert not refused or 'container "debug"' in said[0]


def test_other_namespaces_do_not_notice_it(plane: ControlPlane) -> None:
    assert refusal(plane, "default", pod(PARTS["privileged", "true"])) == ""


def test_the_api_server_finds_nothing_wrong_with_the_policy(plane: ControlPlane) -> None:
    assert type_warnings(plane, "mpslice-pod-security") == []
