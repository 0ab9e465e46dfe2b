"""The policy asked about any JSON, read by both ways in: as the server reads it and as offline."""

import json
from typing import Any

from msgspec import DecodeError
from msgspec.json import Decoder

from webhook import policy
from webhook.settings import Settings
from webhook.shapes import Object, shaped
from webhook.verdicts import Verdict

_decode = Decoder(Object).decode


def read(value: object) -> Any:
    """What admission reads of a value; both ways read the same, but for fields that are null."""
    found = shaped(value, Object) or {}
    try:
        decoded = _decode(json.dumps(value))
    except DecodeError:
        return found  # no strict JSON, or something in it is of another type
    assert shaped(decoded, Object) == found
    return decoded


def mutate(pod: object, settings: Settings) -> Verdict:
    return policy.mutate(read(pod), settings)


def validate(
    pod: object, settings: Settings, *, old: object = None, largest: int | None = None
) -> Verdict:
    before = None if old is None else read(old)
    return policy.validate(read(pod), settings, old=before, largest=largest)


def advise(
    workload: object,
    kind: str,
    settings: Settings,
    *,
    old: object = None,
    largest: int | None = None,
) -> Verdict:
    before = None if old is None else read(old)
    return policy.advise(read(workload), kind, settings, old=before, largest=largest)
