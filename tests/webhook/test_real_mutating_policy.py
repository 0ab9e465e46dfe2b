"""A MutatingAdmissionPolicy of somebody else's, which is what policy engines write where they can.

It is carried out before every webhook, so its name says nothing of the order."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE
from tests.webhook.cases import SLICE, container, pod
from tests.webhook.cluster import Installation, Replica, called, create

Json = dict[str, Any]
_GROUP = "admissionregistration.k8s.io/v1"
_NAME = "zz-other"
_LABEL = {"other": "policy"}
_ADD_SLICE = (
    'has(object.spec.containers[0].resources.limits) ? [] : [JSONPatch{op: "add", '
    f'path: "/spec/containers/0/resources/limits", value: {{"{SLICE}": "1"}}}}]'
)
_TAKE_HOST_IPC = (
    "has(object.spec.hostIPC) && object.spec.hostIPC ? "
    '[JSONPatch{op: "remove", path: "/spec/hostIPC"}, '
    'JSONPatch{op: "add", path: "/metadata/labels/seen", value: "yes"}] : []'
)
_ADD_THINGS = (
    '[JSONPatch{op: "add", path: "/metadata/labels/team", value: "a"}, '
    'JSONPatch{op: "add", path: "/spec/tolerations", '
    'value: [{"key": "gpu", "operator": "Exists"}]}, '
    'JSONPatch{op: "add", path: "/spec/containers/0/env", value: [{"name": "TEAM", "value": "a"}]}]'
)


@pytest.fixture
def policies(installation: Installation) -> None:
    found = installation.plane.api.get(f"/apis/{_GROUP}")["resources"]
    if not any(each["name"] == "mutatingadmissionpolicies" for each in found):
        pytest.skip(f"{_GROUP} of this Kubernetes has no MutatingAdmissionPolicy")


@contextmanager
def carrying_out(
    installation: Installation, expression: str, reinvocation: str = "IfNeeded"
) -> Iterator[None]:
    """While inside, the policy changes the pods that carry the label."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    labelled = "has(object.metadata.labels) && 'other' in object.metadata.labels"
    spec = {
        "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
        "matchConditions": [{"name": "labelled", "expression": labelled}],
        "failurePolicy": "Fail",
        "reinvocationPolicy": reinvocation,
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
    }
    kinds = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
    specs: Sequence[Json] = (spec, {"policyName": _NAME})
    installation.apply(
        [
            {"apiVersion": _GROUP, "kind": kind, "metadata": {"name": _NAME}, "spec": each}
            for kind, each in zip(kinds, specs, strict=True)
        ]
    )
    try:
        yield
    finally:
        for kind in reversed(kinds):
            installation.plane.kubectl("delete", kind, _NAME)


def created(installation: Installation, body: Json) -> Json:
    """The pod as it would be stored, {} for one that is refused."""
    arguments = ("create", "--dry-run=server", "--filename=-", "--output=json")
    stdout, _ = installation.kubectl(*arguments, objects=[called(body, "p", labels=_LABEL)])
    found: Json = json.loads(stdout) if stdout else {}
    return found


def test_slice_that_a_mutating_policy_adds_is_completed_whatever_the_policys_name(
    installation: Installation, serving: Replica, policies: None
) -> None:
    def sliced() -> Json:
        made = created(installation, pod(container({})))
        return made if SLICE in json.dumps(made) else {}

    with carrying_out(installation, _ADD_SLICE):
        spec = wait_until(sliced, "the policy adds the slice", seconds=DEADLINE)["spec"]
    assert spec["hostIPC"] is True
    assert spec["schedulingGates"] == [{"name": "mpslice.io/carve"}]


def test_what_a_mutating_policy_adds_to_a_slice_pod_stays_beside_ours(
    installation: Installation, serving: Replica, policies: None
) -> None:
    def both() -> Json:
        made = created(installation, pod())
        return made if made and "team" in made["metadata"]["labels"] else {}

    with carrying_out(installation, _ADD_THINGS):
        made = wait_until(
            both,
            "the policy adds what it adds",
            seconds=DEADLINE,
            details=lambda: create(installation, called(pod(), "p", labels=_LABEL))[1],
        )
    spec = made["spec"]
    assert {"key": "gpu", "operator": "Exists"} in spec["tolerations"]
    assert {"name": "TEAM", "value": "a"} in spec["containers"][0]["env"]
    assert spec["hostIPC"] is True
    assert spec["schedulingGates"] == [{"name": "mpslice.io/carve"}]


@pytest.mark.parametrize("reinvocation", ["Never", "IfNeeded"])
def test_host_ipc_that_a_mutating_policy_takes_away_is_given_back(
    installation: Installation, serving: Replica, policies: None, reinvocation: str
) -> None:
    """Also in the second round, in which the policy comes first again."""

    def seen() -> Json:
        made = created(installation, pod(hostIPC=True))
        return made if made and "seen" in made["metadata"]["labels"] else {}

    with carrying_out(installation, _TAKE_HOST_IPC, reinvocation):
        made = wait_until(seen, "the policy is carried out", seconds=DEADLINE)
    assert made["spec"]["hostIPC"] is True
