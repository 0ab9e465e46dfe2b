"""Both admission steps on one pod without a server, for the offline plan and for tests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonpatch

from webhook.policy import mutate, validate
from webhook.settings import Settings
from webhook.shapes import Object, shaped
from webhook.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Admission:
    """The pod as it would be stored (as far as it got, when refused), and the verdict."""

    pod: Mapping[str, Any]
    verdict: Verdict


def apply(pod: Mapping[str, Any], verdict: Verdict) -> Mapping[str, Any]:
    """The pod with the verdict's patch; the pod given is left as it is."""
    # As text, so that no two pods share a value of the patch.
    patch = jsonpatch.JsonPatch.from_string(json.dumps(verdict.patch))
    patched: Mapping[str, Any] = patch.apply(_unshared(pod), in_place=True)
    return patched


def _unshared(value: Any) -> Any:
    """A copy in which nothing is shared: YAML's aliases would patch two containers at once."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def admit(pod: Mapping[str, Any], settings: Settings, *, largest: int | None = None) -> Admission:
    """What creating the pod would do; the pod given is left as it is."""
    first = mutate(shaped(pod, Object) or {}, settings)
    if not first.allowed:
        return Admission(pod, first)
    stored = apply(pod, first) if first.patch else pod
    second = validate(shaped(stored, Object) or {}, settings, largest=largest)
    warnings = tuple(dict.fromkeys((*first.warnings, *second.warnings)))
    return Admission(stored, second._replace(warnings=warnings, patch=first.patch))
