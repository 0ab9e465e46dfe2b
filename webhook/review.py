"""AdmissionReview in, AdmissionReview out (admission.k8s.io/v1), around the pure policy.

Format: k8s.io/api/admission/v1/types.go. A patch travels as base64 of its JSON.
"""

import json
from binascii import b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from webhook.errors import BadReview
from webhook.pods import mapping, text
from webhook.policy import advise, mutate, validate
from webhook.settings import Settings
from webhook.verdicts import ALLOWED, Operation, Verdict, json_patch
from webhook.workloads import TEMPLATES

API_VERSION: Final = "admission.k8s.io/v1"

_ENVELOPE: Final = f'{{"apiVersion":"{API_VERSION}","kind":"AdmissionReview","response":'
_POD: Final = {"group": "", "version": "v1", "kind": "Pod"}
_USUAL_LENGTH: Final = 8  # of a patch, in operations
_JUDGED: Final = ("CREATE", "UPDATE")


def _no_constant(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


# Made once: json.loads would make one for each call with this option.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_quote: Final = json.encoder.encode_basestring_ascii


class Review(NamedTuple):
    """One request of the API server; objects as it sent them, whatever they are."""

    uid: str
    operation: object
    kind: str
    request: Mapping[str, Any]

    @property
    def new(self) -> object:
        """The object as it would be stored."""
        return self.request.get("object")

    @property
    def old(self) -> object:
        """The object as it is stored, on UPDATE."""
        return self.request.get("oldObject")

    @property
    def name(self) -> str:
        """`namespace/name` for the log; a pod of a workload has no name yet, but its beginning."""
        metadata = mapping(mapping(self.new).get("metadata"))
        name = text(self.request.get("name")) or text(metadata.get("generateName"))
        return f"{text(self.request.get('namespace'))}/{name}"


def read_review(body: bytes) -> Review:
    """The review in a request's body; raises BadReview when it is none."""
    try:
        review = mapping(_decode(body))
    except (ValueError, RecursionError) as error:
        raise BadReview(f"the body is no JSON that can be read: {error}") from error
    if review.get("apiVersion") != API_VERSION or review.get("kind") != "AdmissionReview":
        raise BadReview(f"the body is no AdmissionReview of {API_VERSION}; send one")
    request = mapping(review.get("request"))
    uid = text(request.get("uid"))
    if not uid:
        raise BadReview("the AdmissionReview has no request with a uid; send one")
    return Review(uid, request.get("operation"), _kind(request.get("kind")), request)


def _decode(body: bytes) -> object:
    # As JSONDecoder.decode does it, but that looks for white space with regular expressions.
    text = body.decode().strip(" \t\n\r")
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"there is more after it, at character {end}")
    return value


def _kind(value: object) -> str:
    """`Pod`, a workload's kind, or "" for what other groups may call by the same names."""
    if value == _POD:  # as it nearly always is
        return "Pod"
    kind = mapping(value)
    name, group = text(kind.get("kind")), text(kind.get("group"))
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
    """The body of the response, put together by hand: the encoder costs more than the policy."""
    allowed = "true" if verdict.allowed else "false"
    response = f'"uid":{_quote(review.uid)},"allowed":{allowed}'
    if not verdict.allowed:
        message = _quote(verdict.message)
        response += f',"status":{{"code":403,"reason":"Forbidden","message":{message}}}'
    if verdict.patch:
        usual = len(verdict.patch) <= _USUAL_LENGTH
        patch = _usual_base64(verdict.patch) if usual else _base64(verdict.patch)
        response += f',"patchType":"JSONPatch","patch":"{patch}"'
    if verdict.warnings:
        response += f',"warnings":[{",".join(map(_quote, verdict.warnings))}]'
    if verdict.audit:
        pairs = [f"{_quote(key)}:{_quote(value)}" for key, value in verdict.audit.items()]
        response += f',"auditAnnotations":{{{",".join(pairs)}}}'
    return f"{_ENVELOPE}{{{response}}}}}".encode()


def _base64(patch: tuple[Operation, ...]) -> str:
    return b2a_base64(json_patch(patch).encode(), newline=False).decode()


# Most pods need one of a few patches. Long ones are not remembered: a client may send any length.
_usual_base64 = lru_cache(maxsize=1024)(_base64)
