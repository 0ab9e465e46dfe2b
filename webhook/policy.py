"""Pods and workloads in, verdicts out: what /mutate, /validate and the offline plan all call.

Pure and total: every object of the shape that is read (`webhook.shapes.Object`) gets a verdict,
nothing is looked up, nothing is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, Final

from webhook.mutation import operations, strip_remarks
from webhook.pods import Pod, read_pod
from webhook.quota import corrections
from webhook.rules import early_violations, is_advice, remarks, violations
from webhook.rules.facts import Facts
from webhook.settings import Enforcement, Settings
from webhook.verdicts import ALLOWED, Remark, Verdict, Violation
from webhook.workloads import read_template

MOST_TOLD: Final = 8  # violations in one refusal
_MORE: Final = f"There are more than these {MOST_TOLD}; mend them first."
_MOST_WARNINGS: Final = 12  # the API server passes on 4096 bytes in all
_LONGEST_AUDIT: Final = 1024
_NOTHING: Final[frozenset[Remark]] = frozenset()


def mutate(pod: Mapping[str, Any], settings: Settings) -> Verdict:
    """Completes a slice pod that is being created; its patch is empty for every other pod.

    Refuses what the API server would otherwise answer first and less clearly: what it refuses by
    itself, and a pod with several violations, of which our ValidatingAdmissionPolicy would tell one
    (a policy's message has one line).
    """
    view = read_pod(pod)
    if view.mirror or not view.concerns_us:
        return ALLOWED
    facts = Facts(settings, completing=True)
    found = violations(view, facts)
    first = next(found, None)
    early: Sequence[Violation] = ()
    if first is not None:  # all of EARLY are among what is found
        refusals, _ = _gathered(chain([first], found), settings)
        early, _ = _gathered(early_violations(view, facts), settings)
        if settings.enforcement is Enforcement.DENY and (early or len(refusals) > 1):
            return _refused(refusals)
    patch = operations(view, settings)
    verdict = ALLOWED
    told = [*early, *strip_remarks(view, settings), *corrections(view, settings)]
    if told:
        verdict = _warned(early, told)
    if not patch:
        return verdict
    injected = ", ".join([edit["path"] for edit in patch])[:_LONGEST_AUDIT]
    audit = {**verdict.audit, "injected": injected}
    return Verdict(True, verdict.reason, "", verdict.warnings, audit, patch)


def validate(
    pod: Mapping[str, Any],
    settings: Settings,
    *,
    old: Mapping[str, Any] | None = None,
    largest: int | None = None,
) -> Verdict:
    """Judges a pod as it will be stored.

    `old` is the pod before an UPDATE: what was wrong then is not refused now, so that labels and
    finalizers of old pods can always be changed. `largest` is the capacity in gb of the largest
    GPU known, None while none is.
    """
    view = read_pod(pod)
    if view.mirror or not view.concerns_us:
        return ALLOWED
    facts = Facts(settings, largest, creating=old is None)
    before = frozenset(_findings(read_pod(old), facts)) if old is not None else _NOTHING
    return _judged(_new(_findings(view, facts), before), settings)


def advise(
    workload: Mapping[str, Any],
    kind: str,
    settings: Settings,
    *,
    old: Mapping[str, Any] | None = None,
    largest: int | None = None,
) -> Verdict:
    """Warns of what the pods of a workload would be refused for; never refuses.

    `kind` is the workload's (`Deployment`, …); `old` and `largest` as for `validate`.
    """
    template = read_template(workload, kind)
    if not template.concerns_us:
        return ALLOWED
    facts = Facts(settings, largest, completing=True)
    before = _NOTHING
    if old is not None:
        before = frozenset(_template_findings(read_template(old, kind), facts))
    return _warned(*_gathered(_new(_template_findings(template, facts), before), settings))


def _findings(pod: Pod, facts: Facts) -> Iterator[Remark]:
    yield from violations(pod, facts)
    yield from remarks(pod, facts)


def _template_findings(template: Pod, facts: Facts) -> Iterator[Remark]:
    yield from _findings(template, facts)
    yield from strip_remarks(template, facts.settings)
    yield from corrections(template, facts.settings)


def _new(found: Iterator[Remark], before: AbstractSet[Remark]) -> Iterator[Remark]:
    return (item for item in found if item not in before) if before else found


def _judged(found: Iterator[Remark], settings: Settings) -> Verdict:
    refusals, told = _gathered(found, settings)
    if refusals and settings.enforcement is Enforcement.DENY:
        return _refused(refusals)
    return _warned(refusals, told)


def _gathered(found: Iterator[Remark], settings: Settings) -> tuple[list[Violation], list[Remark]]:
    """The violations that refuse a pod, and everything that may be warned of, as far as it is told.

    Looking on would be work for nobody: a client may send a pod with 100,000 violations.
    """
    refusals: list[Violation] = []
    told: list[Remark] = []
    for item in found:
        if isinstance(item, Violation) and not is_advice(item, settings):
            refusals.append(item)
            if len(refusals) > MOST_TOLD:
                break
        if len(told) < _MOST_WARNINGS:
            told.append(item)
    return refusals, told


def _refused(refusals: Sequence[Violation]) -> Verdict:
    reason = refusals[0].reason
    lines = [refusal.message for refusal in refusals[:MOST_TOLD]]
    if len(refusals) > MOST_TOLD:
        lines.append(_MORE)
    audit = {"reason": str(reason)}
    return Verdict(allowed=False, reason=reason, message="\n".join(lines), audit=audit)


def _warned(refusals: Sequence[Violation], told: Sequence[Remark]) -> Verdict:
    if not told:
        return ALLOWED
    reason = refusals[0].reason if refusals else None
    audit = {"reason": str(reason)} if reason else {}
    warnings = tuple(dict.fromkeys(item.warning for item in told))[:_MOST_WARNINGS]
    return Verdict(reason=reason, warnings=warnings, audit=audit)
