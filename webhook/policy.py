"""Pods and workloads in, verdicts out: what /mutate, /validate and the offline plan all call.

Pure and total: any JSON at all gets a verdict, nothing is looked up, nothing is kept.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

from webhook.mutation import completed, operations, strip_remarks
from webhook.pods import Pod, read_pod
from webhook.rules import Facts, early_violations, is_advice, remarks, violations
from webhook.settings import Enforcement, Settings
from webhook.verdicts import ALLOWED, Remark, Verdict, Violation
from webhook.workloads import read_template

_MOST_WARNINGS: Final = 12  # the API server passes on 4096 bytes in all
_LONGEST_AUDIT: Final = 1024
_PATH: Final = attrgetter("path")


def mutate(pod: object, settings: Settings) -> Verdict:
    """Completes a slice pod that is being created; its patch is empty for every other pod.

    Refuses only what the API server would otherwise answer before `validate` is asked.
    """
    view = read_pod(pod)
    if view.mirror or not view.mentions_slices:
        return ALLOWED
    facts = Facts(settings)
    early = early_violations(view, facts)
    if early and settings.enforcement is Enforcement.DENY:
        # Refused now or later, the reason is the first in the order of the contract.
        return _refused(next(violations(completed(view, settings), facts)))
    patch = operations(view, settings)
    found = (*early, *strip_remarks(view, settings))
    verdict = _warned(found, early[0] if early else None)
    if not patch:
        return verdict
    injected = ", ".join(map(_PATH, patch))[:_LONGEST_AUDIT]
    audit = {**verdict.audit, "injected": injected}
    return Verdict(True, verdict.reason, "", verdict.warnings, audit, patch)


def validate(
    pod: object, settings: Settings, *, old: object = None, largest: int | None = None
) -> Verdict:
    """Judges a pod as it will be stored.

    `old` is the pod before an UPDATE: what was wrong then is not refused now, so that labels and
    finalizers of old pods can always be changed. `largest` is the capacity in gb of the largest
    GPU known, None while none is.
    """
    view = read_pod(pod)
    if view.mirror or not view.mentions_slices:
        return ALLOWED
    facts = Facts(settings, largest)
    before = _findings(read_pod(old), facts) if old is not None else ()
    return _judged([found for found in _findings(view, facts) if found not in before], settings)


def advise(
    workload: object,
    kind: str,
    settings: Settings,
    *,
    old: object = None,
    largest: int | None = None,
) -> Verdict:
    """Warns of what the pods of a workload would be refused for; never refuses.

    `kind` is the workload's (`Deployment`, …); `old` and `largest` as for `validate`.
    """
    template = read_template(workload, kind)
    if not template.mentions_slices:
        return ALLOWED
    facts = Facts(settings, largest)
    before = _template_findings(read_template(old, kind), facts) if old is not None else ()
    found = [item for item in _template_findings(template, facts) if item not in before]
    return _warned(found, next((f for f in found if isinstance(f, Violation)), None))


def _findings(pod: Pod, facts: Facts) -> tuple[Remark, ...]:
    return (*violations(pod, facts), *remarks(pod))


def _template_findings(template: Pod, facts: Facts) -> tuple[Remark, ...]:
    stripped = strip_remarks(template, facts.settings)
    return (*_findings(completed(template, facts.settings), facts), *stripped)


def _judged(found: Sequence[Remark], settings: Settings) -> Verdict:
    refusals = [f for f in found if isinstance(f, Violation) and not is_advice(f, settings)]
    first = refusals[0] if refusals else None
    if first is not None and settings.enforcement is Enforcement.DENY:
        return _refused(first)
    return _warned(found, first)


def _refused(first: Violation) -> Verdict:
    reason = first.reason
    return Verdict(
        allowed=False, reason=reason, message=first.message, audit={"reason": str(reason)}
    )


def _warned(found: Sequence[Remark], first: Violation | None) -> Verdict:
    if not found:
        return ALLOWED
    reason = first.reason if first else None
    audit = {"reason": str(reason)} if reason else {}
    return Verdict(reason=reason, warnings=_warnings(found), audit=audit)


def _warnings(found: Iterable[Remark]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.warning for item in found))[:_MOST_WARNINGS]
