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


@pytest.mark.parametrize("odd", [None, True, 7, "text", [], [None], {"": None}])
@pytest.mark.parametrize("field", ["securityContext", "env", "volumeMounts", "name"])
def test_a_field_of_another_type_counts_as_absent_and_the_rest_is_judged(
    field: str, odd: object
) -> None:
    without = container({SLICE: 2})
    without.pop(field, None)
    first, second = review(pod({**without, field: odd})), review(pod(without))
    if isinstance(odd, str) and field == "name":
        assert validated(first)["status"]["message"].startswith("MultipleSlices: ")
    else:
        assert validated(first) == validated(second)


def test_what_nobody_reads_may_be_anything_that_is_json() -> None:
    usual = pod(container({SLICE: 1}))
    more = {**usual, "status": [None], "spec": {**usual["spec"], "affinity": 10**400}}
    assert mutated(review(more, userInfo=[], options=1.5)) == mutated(review(usual))
    with pytest.raises(BadReview):
        read_review(review(more).replace(str(10**400).encode(), b"NaN"))


_GOOD = json.loads(review(pod()))
_WITH_NAME = json.dumps(_GOOD).replace(UID, "%s").encode()


def test_body_whose_bytes_are_spoiled_below_would_be_a_review() -> None:
    assert read_review(_WITH_NAME % b"u").uid == "u"


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
        b'{"n": -Infinity}',
        b'{"n": 1e999}',
        b'{"n": ' + b"9" * 10_000 + b"}",
        _WITH_NAME % b"\xff",
        _WITH_NAME % "\ud800".encode(errors="surrogatepass"),
        _WITH_NAME % rb"\ud800",
        _WITH_NAME % b"\x00",
        b"\xef\xbb\xbf" + json.dumps(_GOOD).encode(),
        json.dumps(_GOOD).encode() + b"{}",
        json.dumps(_GOOD).encode("utf-16"),
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


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    """As in the API server's own decoder."""
    both = b'"spec": {"hostIPC": true, "hostIPC": false, '
    twice = review(pod()).replace(b'"spec": {', both)
    patch = json.loads(base64.b64decode(mutated(twice)["patch"]))
    assert {"op": "add", "path": "/spec/hostIPC", "value": True} in patch


@pytest.mark.parametrize("count", [2**63, 2**64, 10**40, -(2**63) - 1])
def test_count_of_any_length_is_answered(count: int) -> None:
    settings = Settings(enforcement=Enforcement.WARN)
    response = mutated(review(pod(container({}, requests={SLICE: count}))), settings)
    assert response["allowed"] is True


def test_text_of_any_language_comes_back_as_it_was() -> None:
    name = "\N{GRINNING FACE} gpü \x7f\u2028"
    message = validated(review(pod(container({SLICE: 2}, name=name))))["status"]["message"]
    assert f'"{name}"' in message


def test_log_names_the_pod_or_what_its_name_will_begin_with() -> None:
    named = read_review(review(pod(), namespace="team", name="p"))
    assert named.name == "team/p"
    generated = {**pod(), "metadata": {"generateName": "train-"}}
    assert read_review(review(generated, namespace="team")).name == "team/train-"


def test_answer_to_an_empty_verdict_is_allowed() -> None:
    assert _response(answer(read_review(review(pod())), Verdict())) == {"uid": UID, "allowed": True}
