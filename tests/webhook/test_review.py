"""Reviews in and out: the format of admission.k8s.io/v1, and what is no review."""

import base64
import json
from typing import Any

import pytest

from tests.webhook.cases import SLICE, container, pod, workload
from webhook.errors import BadReview
from webhook.review import answer, judge_mutation, judge_validation, read_review
from webhook.settings import Enforcement, Settings
from webhook.verdicts import Verdict

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
DEFAULT = Settings()
_GROUPS = {"Deployment": "apps", "Job": "batch"}


def review(obj: Any, operation: str = "CREATE", old: Any = None, **request: Any) -> bytes:
    """A body as the API server sends it."""
    kind = obj["kind"] if isinstance(obj, dict) else "Pod"
    body = {
        "uid": UID,
        "kind": {"group": _GROUPS.get(kind, ""), "version": "v1", "kind": kind},
        "operation": operation,
        "object": obj,
        "oldObject": old,
        **request,
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": body}
    ).encode()


def mutated(body: bytes, settings: Settings = DEFAULT) -> dict[str, Any]:
    """The response of /mutate."""
    read = read_review(body)
    return _response(answer(read, judge_mutation(read, settings)))


def validated(body: bytes, settings: Settings = DEFAULT) -> dict[str, Any]:
    """The response of /validate."""
    read = read_review(body)
    return _response(answer(read, judge_validation(read, settings, None)))


def _response(body: bytes) -> dict[str, Any]:
    decoded = json.loads(body)
    assert (decoded["apiVersion"], decoded["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: dict[str, Any] = decoded["response"]
    assert response["uid"] == UID
    return response


def test_patch_travels_as_base64() -> None:
    response = mutated(review(pod()))
    assert response["allowed"] is True
    assert response["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(response["patch"]))
    assert {"op": "add", "path": "/spec/hostIPC", "value": True} in patch


def test_empty_patch_is_no_patch() -> None:
    assert mutated(review(pod(container({})))) == {"uid": UID, "allowed": True}


def test_refusal_is_a_403_with_the_message() -> None:
    response = validated(review(pod(container({SLICE: 2}))))
    assert response["allowed"] is False
    assert response["status"]["code"] == 403
    assert response["status"]["message"].startswith("MultipleSlices: ")
    assert response["auditAnnotations"] == {"reason": "MultipleSlices"}


def test_warnings_are_passed_on() -> None:
    response = validated(review(pod(container({SLICE: 2}))), Settings(enforcement=Enforcement.WARN))
    assert response["allowed"] is True
    assert response["warnings"][0].startswith("MultipleSlices: ")


def test_pods_are_completed_on_create_only() -> None:
    assert "patch" not in mutated(review(pod(), "UPDATE", pod()))


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT", ""])
def test_other_operations_are_let_through(operation: str) -> None:
    bad = review(pod(container({SLICE: 2})), operation)
    assert validated(bad) == {"uid": UID, "allowed": True}


def test_workload_is_warned_about_and_never_patched() -> None:
    bad = review(workload("Deployment", pod(container({SLICE: 2}))))
    assert validated(bad)["warnings"]
    assert mutated(bad) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize(
    "kind",
    [
        {"group": "example.com", "version": "v1", "kind": "Pod"},
        {"group": "example.com", "version": "v1", "kind": "Deployment"},
        {"group": "", "version": "v1", "kind": "Binding"},
        None,
        "Pod",
    ],
)
def test_kinds_that_are_not_ours_are_let_through(kind: object) -> None:
    assert validated(review(pod(container({SLICE: 2})), kind=kind)) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize("obj", [None, [], "pod", 1, {"kind": "Pod"}, {"kind": "Pod", "spec": 1}])
def test_object_of_any_shape_is_let_through(obj: object) -> None:
    assert mutated(review(obj)) == validated(review(obj)) == {"uid": UID, "allowed": True}


_GOOD = json.loads(review(pod()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'"AdmissionReview"',
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"n": NaN}',
        b'{"n": Infinity}',
        b'{"n": ' + b"9" * 10_000 + b"}",
        json.dumps({**_GOOD, "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
        json.dumps({**_GOOD, "kind": "Pod"}).encode(),
        json.dumps({**_GOOD, "request": None}).encode(),
        json.dumps({**_GOOD, "request": {}}).encode(),
        json.dumps({**_GOOD, "request": {"uid": 7}}).encode(),
    ],
    ids=lambda body: repr(body[:20]) + str(len(body)),
)
def test_what_is_no_review_is_told_so(body: bytes) -> None:
    with pytest.raises(BadReview):
        read_review(body)


def test_lone_surrogates_do_no_harm() -> None:
    body = review(pod(container({SLICE: 2}, name="\ud800"))).replace(UID.encode(), b"\\ud800")
    read = read_review(body)
    reply = json.loads(answer(read, judge_validation(read, DEFAULT, None)))
    assert reply["response"]["uid"] == "\ud800"


def test_log_names_the_pod_or_what_its_name_will_begin_with() -> None:
    named = read_review(review(pod(), namespace="team", name="p"))
    assert named.name == "team/p"
    generated = {**pod(), "metadata": {"generateName": "train-"}}
    assert read_review(review(generated, namespace="team")).name == "team/train-"


def test_answer_to_an_empty_verdict_is_allowed() -> None:
    assert _response(answer(read_review(review(pod())), Verdict())) == {"uid": UID, "allowed": True}
