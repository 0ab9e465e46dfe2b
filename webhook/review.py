"""AdmissionReview in, AdmissionReview out (admission.k8s.io/v1), around the pure policy.

Format: k8s.io/api/admission/v1/types.go. A patch travels as base64 of its JSON; as base64
msgspec writes all bytes. It reads and writes in a third of the time that Python's json takes, skips
what nobody reads (`webhook.shapes`), and reads strict JSON only: no NaN, no lone surrogate, fewer
than 1000 levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec import DecodeError, ValidationError, json

from webhook.errors import BadReview
from webhook.policy import advise, mutate, validate
from webhook.settings import Settings
from webhook.shapes import AdmissionReview, shaped
from webhook.verdicts import ALLOWED, EMPTY, Verdict
from webhook.workloads import TEMPLATES

API_VERSION: Final = "admission.k8s.io/v1"

_JUDGED: Final = ("CREATE", "UPDATE")

_decode: Final = json.Decoder(AdmissionReview).decode
_decode_anything: Final = json.Decoder().decode
_encode: Final = json.Encoder().encode


@dataclass(slots=True)
class Review:
    """One request of the API server; its objects are as far as they have the shape that is read."""

    uid: str
    operation: object
    kind: str
    request: Mapping[str, Any]

    @property
    def new(self) -> Mapping[str, Any]:
        """The object as it would be stored."""
        return self.request.get("object") or EMPTY

    @property
    def old(self) -> Mapping[str, Any] | None:
        """The object as it is stored, on UPDATE."""
        return self.request.get("oldObject")

    @property
    def name(self) -> str:
        """`namespace/name` for the log; a pod of a workload has no name yet, but its beginning."""
        generated = self.new.get("metadata", EMPTY).get("generateName", "")
        return f"{self.request.get('namespace', '')}/{self.request.get('name') or generated}"


def read_review(body: bytes) -> Review:
    """The review in a request's body; raises BadReview when it is none."""
    try:
        review = _decoded(body)
    except (DecodeError, RecursionError) as error:
        raise BadReview(f"the body is no JSON that can be read: {error}") from error
    if review.get("apiVersion") != API_VERSION or review.get("kind") != "AdmissionReview":
        raise BadReview(f"the body is no AdmissionReview of {API_VERSION}; send one")
    request = review.get("request", EMPTY)
    uid = request.get("uid")
    if not uid:
        raise BadReview("the AdmissionReview has no request with a uid; send one")
    return Review(uid, request.get("operation"), _kind(request.get("kind", EMPTY)), request)


def _decoded(body: bytes) -> Mapping[str, Any]:
    try:
        return _decode(body)
    except ValidationError:  # JSON, and something in it is of another type
        return shaped(_decode_anything(body), AdmissionReview) or EMPTY


def _kind(kind: Mapping[str, Any]) -> str:
    """`Pod`, a workload's kind, or "" for what other groups may call by the same names."""
    name, group = kind.get("kind", ""), kind.get("group", "")
    if name == "Pod":
        return name if group == "" else ""
    return name if group in ("apps", "batch") and name in TEMPLATES else ""


def judge_mutation(review: Review, settings: Settings) -> Verdict:
    """What /mutate answers: pods are completed when they are created, and never later."""
    if review.operation == "CREATE" and review.kind == "Pod":
        return mutate(review.new, settings)
    return ALLOWED


def judge_validation(review: Review, settings: Settings, largest: int | None) -> Verdict:
    """What /validate answers; `largest` is the capacity of the largest GPU known, in gb."""
    if review.operation not in _JUDGED:
        return ALLOWED
    old = review.old if review.operation == "UPDATE" else None
    if review.kind == "Pod":
        return validate(review.new, settings, old=old, largest=largest)
    return advise(review.new, review.kind, settings, old=old, largest=largest)


def answer(review: Review, verdict: Verdict) -> bytes:
    """The body of the response."""
    response: dict[str, Any] = {"uid": review.uid, "allowed": verdict.allowed}
    if not verdict.allowed:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": verdict.message}
    if verdict.patch:
        response |= {"patchType": "JSONPatch", "patch": _encode(verdict.patch)}
    if verdict.warnings:
        response["warnings"] = verdict.warnings
    if verdict.audit:
        response["auditAnnotations"] = verdict.audit
    return _encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
