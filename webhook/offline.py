"""Both admission steps on one pod without a server, for the offline plan and for tests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jsonpatch

from webhook.policy import mutate, validate
from webhook.settings import Settings
from webhook.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Admission:
    """The pod as it would be stored (as far as it got, when refused), and the verdict."""

    pod: Mapping[str, Any]
    verdict: Verdict


def admit(pod: Mapping[str, Any], settings: Settings, *, largest: int | None = None) -> Admission:
    """What creating the pod would do; the pod given is left as it is."""
    first = mutate(pod, settings)
    if not first.allowed:
        return Admission(pod, first)
    stored = jsonpatch.apply_patch(pod, list(first.patch)) if first.patch else pod
    second = validate(stored, settings, largest=largest)
    warnings = tuple(dict.fromkeys((*first.warnings, *second.warnings)))
    return Admission(stored, replace(second, warnings=warnings, patch=first.patch))
