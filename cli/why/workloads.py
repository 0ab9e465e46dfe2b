"""Says why a workload's pods are not created. Pure.

Admission refuses its controller the pod, which the controller says in an Event or a condition.
Where that has expired, the template is judged by the webhook's own rules.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.why.answer import Answer, Remedy, State, Told
from cli.why.pods import Insight, about_pod
from webhook.offline import admit
from webhook.settings import Settings
from webhook.verdicts import Reason, Verdict
from webhook.workloads import TEMPLATES

Json = Mapping[str, Any]

_MOST_PODS: Final = 3  # answers about pods that wait
_FAILED: Final = frozenset({"FailedCreate", "FailedCreatePod"})
_CODE: Final = re.compile(rf"\b({'|'.join(Reason)}): ")
_AWAY: Final = re.compile(r'failed calling webhook "((?:mutate|validate)\.pods\.mpslice\.io)"')
_DENIED: Final = re.compile(r'admission webhook "[^"]+" denied the request: ')
_FINISHED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What templates are judged by: the webhook's settings and the largest GPU in gb; `known` says
    that the settings are those of this cluster's webhook.
    """

    settings: Settings
    largest: int | None = None
    known: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload with what belongs to it. `children` are a Deployment's ReplicaSets, a CronJob's
    Jobs; `told` are the Events of all of them, the newest last.
    """

    kind: str
    raw: Json
    children: Sequence[Json] = ()
    pods: Sequence[Json] = ()
    told: Sequence[Told] = ()

    @property
    def about(self) -> str:
        metadata = self.raw["metadata"]
        return f"{self.kind} {metadata.get('namespace')}/{metadata['name']}"


def about_workload(workload: Workload, rules: Rules, insight: Insight) -> Answer:
    """The answer about a workload."""
    verdict = judged_template(workload, rules)
    refusal = _refusal(workload)
    living = [p for p in workload.pods if (p.get("status") or {}).get("phase") not in _FINISHED]
    answers = [about_pod(pod, (), insight) for pod in living]
    unwell = [answer for answer in answers if not answer.state.is_well]
    lacking = insight.observed.lacking
    wanted = _wanted(workload)
    if refusal and not (wanted is not None and len(living) >= wanted):
        reason, text, remedy = _explained(refusal, verdict)
        return Answer(
            workload.about,
            State.REFUSED,
            reason,
            f"its pods are refused: {text}",
            tuple(_facts(workload, living, verdict, rules)),
            tuple(workload.told),
            remedies=(remedy,) if remedy else (),
            pods=tuple(unwell[:_MOST_PODS]),
            lacking=lacking,
        )
    if not verdict.allowed and not living:
        return Answer(
            workload.about,
            State.REFUSED,
            str(verdict.reason),
            f"its pods are refused: {verdict.message}",
            tuple(_facts(workload, living, verdict, rules)),
            tuple(workload.told),
            lacking=lacking,
        )
    state, reason, text = _of_pods(workload, answers, wanted)
    facts = (*verdict.warnings, *_judged_by(rules)) if verdict.warnings else ()
    return Answer(
        workload.about,
        state,
        reason,
        text,
        facts,
        tuple(workload.told),
        pods=tuple(unwell[:_MOST_PODS]),
        lacking=lacking,
    )


def judged_template(workload: Workload, rules: Rules) -> Verdict:
    """Returns admission's answer to a pod of the template."""
    template: Any = workload.raw
    for step in TEMPLATES[workload.kind]:
        template = (template or {}).get(step)
    metadata = {**((template or {}).get("metadata") or {}), "name": "pod"}
    pod = {"metadata": metadata, "spec": (template or {}).get("spec") or {}}
    return admit(pod, rules.settings, largest=rules.largest).verdict


def _refusal(workload: Workload) -> str:
    """Returns the last refusal that the controller reports; "" for none."""
    for each in (workload.raw, *workload.children):
        for condition in (each.get("status") or {}).get("conditions") or ():
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
                return str(condition.get("message") or "")
    complaints = [
        told.message.partition(": ")[2]
        for told in workload.told
        if told.message.partition(": ")[0] in _FAILED
    ]
    return complaints[-1] if complaints else ""


def _explained(refusal: str, verdict: Verdict) -> tuple[str, str, Remedy | None]:
    """The reason code, the sentence without what goes before it, and what helps."""
    away = _AWAY.search(refusal)
    if away is not None:
        command = "kubectl get pods --all-namespaces --selector=app.kubernetes.io/component=webhook"
        remedy = Remedy("webhook", "an administrator has to see whether the webhook runs", command)
        return "WebhookAway", f"mpslice's webhook {away[1]} does not answer: {refusal}", remedy
    code = _CODE.search(refusal)
    if code is not None:
        # An Event is cut at 1024 bytes, and a policy tells one violation: the rules tell all.
        told = refusal[code.start() :]
        whole = verdict.message if str(verdict.reason) == code[1] else told
        return code[1], whole, None
    return "FailedCreate", _DENIED.sub("", refusal), None


def _facts(
    workload: Workload, living: Sequence[Json], verdict: Verdict, rules: Rules
) -> Iterator[str]:
    wanted = _wanted(workload)
    if wanted is not None:
        yield f"{len(living)} of {wanted} pods are there"
    if not verdict.allowed:
        yield from _judged_by(rules)
        yield "a change of the pod template is tried at once; nothing else has to be done"


def _judged_by(rules: Rules) -> Iterator[str]:
    if not rules.known:
        yield (
            "judged by the chart's default settings: you may not see those of the cluster's webhook"
        )


def _wanted(workload: Workload) -> int | None:
    """Returns how many pods should exist at once; None where nothing says."""
    spec, status = workload.raw.get("spec") or {}, workload.raw.get("status") or {}
    match workload.kind:
        case "Deployment" | "ReplicaSet" | "StatefulSet":
            return int(spec.get("replicas", 1))
        case "DaemonSet":
            return int(status.get("desiredNumberScheduled") or 0)
        case "Job":
            if spec.get("suspend") or _is_complete(status):
                return 0
            left = int(spec.get("completions") or 1) - int(status.get("succeeded") or 0)
            parallel = int(spec.get("parallelism", 1))
            return min(parallel, max(0, left)) if spec.get("completions") else parallel
    return None


def _is_complete(status: Json) -> bool:
    return any(
        condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )


def _of_pods(
    workload: Workload, answers: Iterable[Answer], wanted: int | None
) -> tuple[State, str, str]:
    """Sums up the state of its pods, the worst first."""
    answers = list(answers)
    counts = Counter(answer.reason for answer in answers if not answer.state.is_well)
    if counts:
        causes = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        state = max(
            (a.state for a in answers if not a.state.is_well), key=lambda s: s is State.FAILED
        )
        text = f"{counts.total()} of {len(answers)} pods do not run: {causes}"
        return state, counts.most_common()[0][0], text
    if answers:
        one = len(answers) == 1
        text = "its pod runs or is on its way" if one else "all pods run or are on their way"
        if wanted is not None and len(answers) < wanted:
            text += f"; {wanted - len(answers)} more are still to be made"
        return State.FINE, "Running", f"{text} ({len(answers)})"
    return _without_pods(workload, wanted)


def _without_pods(workload: Workload, wanted: int | None) -> tuple[State, str, str]:
    spec, status = workload.raw.get("spec") or {}, workload.raw.get("status") or {}
    if spec.get("suspend"):
        return State.WAITS, "Suspended", "it is suspended (spec.suspend), so nothing makes pods"
    if workload.kind == "CronJob":
        return State.FINE, "NotDue", f"it has no job now; its schedule is {spec.get('schedule')}"
    if workload.kind == "Job" and _is_complete(status):
        return State.FINE, "Complete", "it has ended"
    if wanted == 0:
        return State.FINE, "NoneWanted", "it wants no pods (0)"
    text = "it has no pods, and no Event says why: see whether kube-controller-manager runs"
    return State.WAITS, "NotCreated", text
