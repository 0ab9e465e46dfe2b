"""Workloads become the pods that their controllers would make."""

from typing import Any

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Json, Run, node, pod, template, workload


def test_workloads_become_their_pods(run: Run, given: Any) -> None:
    objects = (
        node("n1", count="4"),
        workload("Deployment", "web", 10, replicas=2),
        workload("StatefulSet", "db", 10),
        workload("Job", "batch", 10, parallelism=3, completions=2),
        workload("DaemonSet", "watch", 5),
    )
    run("plan", "-f", given(*objects), "-o", "json")
    assert sorted(run.placed) == [
        "team/batch-0",
        "team/batch-1",
        "team/db-0",
        "team/watch-0",
        "team/web-0",
        "team/web-1",
    ]


def test_pods_that_exist_are_not_made_again(run: Run, given: Any) -> None:
    owner = {"kind": "ReplicaSet", "name": "web-5d", "controller": True}
    existing = pod("web-5d-x", 10, node="n1", owner=owner)
    existing["metadata"] |= {"namespace": "team", "labels": {"pod-template-hash": "5d"}}
    files = given(node(), existing, workload("Deployment", "web", 10, replicas=3))
    run("plan", "-f", files, "-o", "json")
    assert len(run.placed) == 2


def test_daemonset_has_a_pod_on_each_eligible_node(run: Run, given: Any) -> None:
    cordoned = node("n2")
    cordoned["spec"] = {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}
    run("plan", "-f", given(node("n1"), cordoned, workload("DaemonSet", "d", 5)), "-o", "json")
    assert list(run.placed.values()) == ["n1"]


def cron_job(name: str, *sizes: int, **spec: Any) -> Json:
    job = {"spec": {**spec.pop("job", {}), "template": template(*sizes)}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"schedule": "@daily", "jobTemplate": job, **spec},
    }


def test_cron_job_is_one_run(plan: Plan) -> None:
    assert sorted(plan(node(), cron_job("nightly", 10, job={"parallelism": 2})).placed) == [
        "team/nightly-0",
        "team/nightly-1",
    ]


def test_pods_of_a_cron_job_are_judged(plan: Plan) -> None:
    nightly = cron_job("nightly", 10)
    limits = nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    limits["resources"]["limits"] = {"nvidia.com/gpu-10gb": 2}
    (rejected,) = plan(node(), nightly).json["rejected"]
    assert (rejected["pod"], rejected["reason"]) == ("team/nightly-0", "MultipleSlices")


def test_cron_job_whose_job_runs_has_no_second_run(plan: Plan) -> None:
    owner = {"kind": "CronJob", "name": "nightly", "controller": True}
    job = workload("Job", "nightly-1", 10)
    job["metadata"]["ownerReferences"] = [owner]
    assert list(plan(node(), cron_job("nightly", 10), job).placed) == ["team/nightly-1-0"]


def test_finished_job_makes_no_pods_though_they_are_gone(plan: Plan) -> None:
    done = workload("Job", "done", 10)
    done["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    assert plan(node(), done, pod("p", 10)).placed == {"default/p": "n1"}


@pytest.mark.parametrize("kind", ["Job", "CronJob"])
def test_suspended_workload_is_named(plan: Plan, kind: str) -> None:
    idle = cron_job("x", 10) if kind == "CronJob" else workload("Job", "x", 10)
    idle["spec"]["suspend"] = True
    made = plan(node(), idle, pod("p", 10))
    assert made.placed == {"default/p": "n1"}
    assert made.warnings[f"{kind} team/x"].startswith("is suspended (spec.suspend: true)")


def test_replication_controller_has_replicas(plan: Plan) -> None:
    old = workload("ReplicationController", "old", 10, replicas=2) | {"apiVersion": "v1"}
    assert len(plan(node(), old).placed) == 2


def test_count_of_a_cron_job_is_named_with_its_path(run: Run, given: Given) -> None:
    run("plan", "-f", given(node(), cron_job("nightly", 10, job={"parallelism": -1})))
    assert run.status == 2
    assert "spec.jobTemplate.spec.parallelism is -1; write a whole number" in run.err


def test_workload_without_a_template_is_named(run: Run, given: Given) -> None:
    bad = cron_job("nightly", 10)
    del bad["spec"]["jobTemplate"]["spec"]["template"]
    run("plan", "-f", given(node(), bad))
    assert run.status == 2
    assert "spec.jobTemplate.spec.template.spec.containers is missing" in run.err
