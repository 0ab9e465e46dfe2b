"""Workloads whose pods never came: each rule that refuses them, from the template to the answer."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.observe import Observer
from cli.terminal import text_of
from cli.why.answer import Answer, State
from cli.why.ask import ask, target
from cli.why.draw import draw
from mpslice.kube.api import EVENTS, NODE_LAYOUTS, PODS, Json, Resource
from tests.cli.fake_api import ALL, FakeApi, Grant, view
from tests.cli.objects import LABEL, event, gpu, layout, meta, pod
from tests.webhook.cases import PODS as TABLE
from tests.webhook.cases import Case, container
from webhook.offline import admit
from webhook.settings import (
    Compute,
    DevShm,
    Enforcement,
    PrivilegeEscalation,
    Settings,
    TooLarge,
)
from webhook.verdicts import Reason

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEPLOYMENTS = Resource("apps/v1", "deployments", namespaced=True)
REPLICA_SETS = Resource("apps/v1", "replicasets", namespaced=True)
JOBS = Resource("batch/v1", "jobs", namespaced=True)
CRON_JOBS = Resource("batch/v1", "cronjobs", namespaced=True)
ENUMS: dict[str, Any] = {
    "dev_shm": DevShm,
    "too_large": TooLarge,
    "compute": Compute,
    "enforcement": Enforcement,
    "privilege_escalation": PrivilegeEscalation,
}


TOO_LARGE = Case(
    "larger than every GPU",
    {"spec": {"containers": [container({"nvidia.com/gpu-96gb": 1})]}, "metadata": {"name": "p"}},
    Reason.SLICE_TOO_LARGE,
    settings={"too_large": "deny"},
)


def settings_of(case: Case) -> Settings:
    return Settings(**{k: ENUMS.get(k, lambda v: v)(v) for k, v in case.settings.items()})


def one_of_each() -> dict[Reason, Case]:
    """The first pod of admission's table that is refused for each reason on the whole way in."""
    found: dict[Reason, Case] = {}
    for case in (*TABLE, TOO_LARGE):
        if case.reason is None or case.reason in found:
            continue
        if admit(case.manifest, settings_of(case), largest=80).verdict.reason is case.reason:
            found[case.reason] = case
    return found


EACH = one_of_each()


def owned_by(obj: Json, kind: str) -> Json:
    metadata = obj["metadata"]
    return {"kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}


def deployment(template: Json, replicas: int = 2) -> tuple[Json, Json]:
    """A Deployment and its ReplicaSet."""
    given = template.get("metadata") or {}
    metadata = {
        "labels": {**(given.get("labels") or {}), "app": "w"},
        "annotations": given.get("annotations") or {},
    }
    spec = {"replicas": replicas, "template": {"metadata": metadata, "spec": template["spec"]}}
    top = {"metadata": meta("w", "team-a"), "spec": spec}
    below = {
        "metadata": meta("w-7d9", "team-a", ownerReferences=[owned_by(top, "Deployment")]),
        "spec": spec,
    }
    return top, below


def webhook(case: Case) -> Json:
    args = ["--listen=[::]:8443", "--log-level=info"]
    for key, value in case.settings.items():
        text = ",".join(f"{n}gb" for n in value) if key == "allowed_sizes" else str(value).lower()
        args.append(f"--{key.replace('_', '-')}={text}")
    labels = {"app.kubernetes.io/name": "mpslice", "app.kubernetes.io/component": "webhook"}
    spec = {"template": {"spec": {"containers": [{"name": "webhook", "args": args}]}}}
    return {"metadata": meta("mpslice-webhook", "mpslice-system", labels=labels), "spec": spec}


async def why(kube: FakeApi, text: str = "deployment/w") -> Answer:
    observer = Observer(kube, LABEL, "team-a", clock=lambda: NOW)
    return await ask(kube, observer, target(text), "team-a")


def refused(message: str) -> str:
    said = 'admission webhook "validate.pods.mpslice.io" denied the request'
    return f"Error creating: {said}: {message}"


def test_every_reason_is_followed_to_the_person() -> None:
    """HostIPCRequired is only for what another webhook takes away; it has a test of its own."""
    assert EACH.keys() | {Reason.HOST_IPC_REQUIRED} == set(Reason)


@pytest.mark.parametrize("case", EACH.values(), ids=lambda case: str(case.reason))
async def test_rule_that_refuses_the_pods_is_told_from_event_condition_and_template(
    case: Case,
) -> None:
    verdict = admit(case.manifest, settings_of(case), largest=80).verdict
    top, below = deployment(case.manifest)
    objects = [
        (DEPLOYMENTS, top),
        (REPLICA_SETS, below),
        (DEPLOYMENTS, webhook(case)),
        (NODE_LAYOUTS, layout("n1", gpu("n1", 0, 80))),
    ]
    event_of_it = event(below, "FailedCreate", refused(verdict.message), by="replicaset-controller")
    failure = {"type": "ReplicaFailure", "status": "True", "message": refused(verdict.message)}
    failed = {**below, "status": {"conditions": [failure]}}
    in_condition = [*objects[:1], (REPLICA_SETS, failed), *objects[2:]]
    for objects_seen in (objects, [*objects, (EVENTS, event_of_it)], in_condition):
        answer = await why(FakeApi(objects_seen))
        assert (answer.state, answer.reason) == (State.REFUSED, case.reason)
        lines = text_of(draw(answer, NOW))
        for violation in verdict.message.split("\n"):
            assert violation in lines
        assert "0 of 2 pods are there" in lines
    # With the rights of a namespace the Event is read, and the message is in it.
    mine = await why(FakeApi([*objects, (EVENTS, event_of_it)], view("team-a")))
    assert (mine.state, mine.reason) == (State.REFUSED, case.reason)
    assert str(case.reason) in text_of(draw(mine, NOW))


async def test_hostipc_that_another_webhook_takes_away_is_told_in_the_events_words() -> None:
    words = 'HostIPCRequired: container "main" (spec.containers[0]): hostIPC is not true'
    top, below = deployment(pod("p", 10))
    told = event(below, "FailedCreate", refused(words), by="replicaset-controller")
    answer = await why(FakeApi([(DEPLOYMENTS, top), (REPLICA_SETS, below), (EVENTS, told)]))
    assert (answer.state, answer.reason) == (State.REFUSED, "HostIPCRequired")
    assert answer.summary == f"its pods are refused: {words}"


async def test_condition_tells_when_the_event_has_expired() -> None:
    top, below = deployment(pod("p", 10))
    words = "exceeded quota: gpus, requested: requests.mpslice.io/gb=10"
    failure = {"type": "ReplicaFailure", "status": "True", "message": f'pods "w-1" is {words}'}
    below["status"] = {"conditions": [failure]}
    answer = await why(FakeApi([(DEPLOYMENTS, top), (REPLICA_SETS, below)]))
    assert (answer.state, answer.reason) == (State.REFUSED, "FailedCreate")
    assert words in answer.summary


async def test_webhook_that_is_away_is_named_with_what_to_do() -> None:
    top, below = deployment(pod("p", 10))
    words = 'Error creating: failed calling webhook "mutate.pods.mpslice.io": no endpoints'
    told = event(below, "FailedCreate", words, by="replicaset-controller")
    answer = await why(FakeApi([(DEPLOYMENTS, top), (REPLICA_SETS, below), (EVENTS, told)]))
    assert answer.reason == "WebhookAway"
    assert "component=webhook" in text_of(draw(answer, NOW))


async def test_template_is_said_to_be_judged_by_the_defaults_where_the_settings_are_not_seen() -> (
    None
):
    top, below = deployment(EACH[Reason.MULTIPLE_SLICES].manifest)
    kube = FakeApi([(DEPLOYMENTS, top), (REPLICA_SETS, below)], view("team-a"))
    answer = await why(kube, "w")  # a bare name finds a workload where no pod has it
    assert answer.reason == Reason.MULTIPLE_SLICES
    assert "judged by the chart's default settings" in text_of(draw(answer, NOW))


async def test_settings_are_those_of_the_clusters_webhook() -> None:
    case = EACH[Reason.SIZE_NOT_ALLOWED]
    top, below = deployment(case.manifest)
    objects = [(DEPLOYMENTS, top), (REPLICA_SETS, below)]
    assert (await why(FakeApi(objects))).reason == "NotCreated"
    assert (await why(FakeApi([*objects, (DEPLOYMENTS, webhook(case))]))).reason == case.reason


async def test_pods_that_wait_are_counted_and_explained() -> None:
    top, below = deployment(pod("p", 40), replicas=3)
    owner = owned_by(below, "ReplicaSet")
    pods = [pod(f"w-{n}", 40, owner=owner, on="n1" if n == 0 else "") for n in range(3)]
    kube = FakeApi(
        [(DEPLOYMENTS, top), (REPLICA_SETS, below), *((PODS, each) for each in pods)], ALL
    )
    answer = await why(kube)
    assert (answer.state, answer.reason) == (State.WAITS, "NoNode")
    assert answer.summary == "2 of 3 pods do not run: 2 NoNode"
    assert [each.about for each in answer.pods] == ["Pod team-a/w-1", "Pod team-a/w-2"]


async def test_workloads_that_want_no_pods_now_are_fine_or_say_what_holds_them() -> None:
    template: Json = {"spec": {"containers": []}}
    job = {"metadata": meta("j", "team-a"), "spec": {"suspend": True, "template": template}}
    inner = {"schedule": "0 * * * *", "jobTemplate": {"spec": {"template": template}}}
    cron = {"metadata": meta("c", "team-a"), "spec": inner}
    done = {
        "metadata": meta("d", "team-a"),
        "spec": {"template": template},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    }
    none, _ = deployment(pod("p", 10), replicas=0)
    kube = FakeApi([(JOBS, job), (CRON_JOBS, cron), (JOBS, done), (DEPLOYMENTS, none)])
    answers = [await why(kube, each) for each in ("job/j", "cj/c", "jobs/d", "deploy/w")]
    assert [(a.state, a.reason) for a in answers] == [
        (State.WAITS, "Suspended"),
        (State.FINE, "NotDue"),
        (State.FINE, "Complete"),
        (State.FINE, "NoneWanted"),
    ]


async def test_job_whose_pods_are_refused_says_the_rule() -> None:
    case = EACH[Reason.RESERVED_MOUNT]
    job = {
        "metadata": meta("j", "team-a"),
        "spec": {"template": {"spec": case.manifest["spec"]}},
    }
    kube = FakeApi([(JOBS, job)], (*view("team-a"), Grant("deployments")))
    assert (await why(kube, "job/j")).reason == Reason.RESERVED_MOUNT


async def test_what_is_not_there_is_said_with_the_way_to_learn_more() -> None:
    with pytest.raises(Exception, match="a pod that admission refused is not stored"):
        await why(FakeApi(), "nothing")
    with pytest.raises(Exception, match=r"^there is no node nothing$"):
        await why(FakeApi(), "node/nothing")
    with pytest.raises(Exception, match="kubectl create clusterrole mpslice-sees-nodes"):
        await why(FakeApi((), view("team-a")), "node/n1")


NO_NAME = "is not a valid name; names have lowercase letters, digits, - and ."
NO_KIND = (
    "has an unknown kind; write NAME or KIND/NAME, where KIND is one of pod, node, deployment, "
    "replicaset, statefulset, daemonset, job, cronjob"
)
WRONG = {
    "": NO_NAME,
    "Train": NO_NAME,
    "Pod/UPPER": NO_NAME,
    "pod/": NO_NAME,
    "pod p": NO_NAME,
    "pod:p": NO_NAME,
    "p,q": NO_NAME,
    "p*": NO_NAME,
    "p.": NO_NAME,
    ".p": NO_NAME,
    '"p"': NO_NAME,
    "x" * 254: NO_NAME,
    "pod\\p": NO_NAME,
    "p\x1b[31m": NO_NAME,
    "../../api": NO_KIND,
    "a/b/c": NO_KIND,
    "/p": NO_KIND,
    "n1/": NO_KIND,
    "node//n1": NO_KIND,
    "http://x/p": NO_KIND,
    "team-a/train-0": f"{NO_KIND}; if team-a is a namespace, write train-0 --namespace=team-a",
    "pytorchjob/x": f"{NO_KIND}; if pytorchjob is a namespace, write x --namespace=pytorchjob",
}


@pytest.mark.parametrize("text", WRONG)
def test_target_that_names_nothing_known_is_answered_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(WRONG[text])}$"):
        target(text)
