"""What the chart's values make of its objects: names, labels, places, rights, and Jobs of hooks."""

import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import chart_readme
from hack.cluster.parts import Parts
from tests.chart import CHART, render
from tests.waiting import DEADLINE

Json = dict[str, Any]
COMPONENTS = {"webhook": "webhook", "planner": "planner", "nodeagent": "nodeAgent", "mps": "mps"}
ALL_JOBS = "--set=uninstall.removeGates=true"


def everything(helm: Path, *arguments: str) -> list[Json]:
    """The documents of `helm template`, the hooks' included."""
    command = [str(helm), "template", "mpslice", str(CHART), "--namespace=mpslice-system"]
    done = subprocess.run(
        [*command, ALL_JOBS, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def templates(documents: list[Json]) -> Iterator[Json]:
    """Every pod template."""
    kinds = ("Deployment", "DaemonSet", "Job")
    yield from (each["spec"]["template"] for each in documents if each["kind"] in kinds)


def of(documents: list[Json], kind: str) -> dict[str, Json]:
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


def test_readme_of_the_chart_is_made_from_its_values() -> None:
    assert chart_readme.README.read_text() == chart_readme.text(), (
        "run `python -m hack.chart_readme`"
    )
    assert chart_readme.PAGE.read_text() == chart_readme.page(), "run `python -m hack.chart_readme`"


def test_every_pod_runs_on_linux(cluster_parts: Parts) -> None:
    documents = everything(cluster_parts.helm, "--set=webhook.nodeSelector.pool=system")
    selectors = [pod["spec"]["nodeSelector"] for pod in templates(documents)]
    assert len(selectors) == 7
    assert all(each["kubernetes.io/os"] == "linux" for each in selectors)
    assert sum(each.get("pool") == "system" for each in selectors) == 1


def test_webhook_and_planner_prefer_nodes_without_slices(cluster_parts: Parts) -> None:
    deployments = of(render(cluster_parts.helm), "Deployment")
    assert set(deployments) == {"mpslice-webhook", "mpslice-planner"}
    for deployment in deployments.values():
        affinity = deployment["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
        managed = {"key": "mpslice.io/managed", "operator": "DoesNotExist"}
        assert preferred["preference"]["matchExpressions"] == [managed]


def test_a_spread_constraint_counts_the_replicas(cluster_parts: Parts) -> None:
    constraint = ["maxSkew=1", "topologyKey=zone", "whenUnsatisfiable=DoNotSchedule"]
    given = [f"--set=planner.topologySpreadConstraints[0].{each}" for each in constraint]
    planner = of(render(cluster_parts.helm, *given), "Deployment")["mpslice-planner"]
    (found,) = planner["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert found["labelSelector"] == planner["spec"]["selector"]


def test_common_labels_and_annotations_are_on_every_object(cluster_parts: Parts) -> None:
    modes = (
        "--set=monitoring.enabled=always,tls.mode=cert-manager",
        "--set=crds.annotations.b=two",
    )
    common = "--set=commonLabels.team=ml,commonAnnotations.owner=me"
    documents = everything(cluster_parts.helm, common, *modes)
    assert len(documents) > 40
    for document in documents:
        meta = document["metadata"]
        assert meta["labels"]["team"] == "ml", (document["kind"], meta["name"])
        assert meta["annotations"]["owner"] == "me", (document["kind"], meta["name"])
    for pod in templates(documents):
        assert pod["metadata"]["labels"]["team"] == "ml"


def test_each_program_has_the_account_that_it_is_given(cluster_parts: Parts) -> None:
    names = [f"{value}.serviceAccount.name=own-{each}" for each, value in COMPONENTS.items()]
    annotated = "planner.serviceAccount.annotations.role=arn"
    documents = render(cluster_parts.helm, f"--set={','.join([*names, annotated])}")
    accounts = of(documents, "ServiceAccount")
    assert set(accounts) == {f"own-{each}" for each in COMPONENTS}
    assert accounts["own-planner"]["metadata"]["annotations"] == {"role": "arn"}
    for kind in ("Deployment", "DaemonSet"):
        for name, workload in of(documents, kind).items():
            account = workload["spec"]["template"]["spec"]["serviceAccountName"]
            assert account == name.replace("mpslice", "own")
    bound = [
        subject["name"]
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for binding in of(documents, kind).values()
        for subject in binding["subjects"]
    ]
    assert set(bound) == {"own-webhook", "own-planner", "own-nodeagent"}
    # Policies that hold a program to its work know it by its account.
    for policy in of(documents, "ValidatingAdmissionPolicy").values():
        for condition in policy["spec"].get("matchConditions", []):
            named = re.findall(r'"system:serviceaccount:mpslice-system:(.+?)"', str(condition))
            assert set(named) <= {*accounts, "mpslice-test"}, policy["metadata"]["name"]


def test_requests_of_the_programs_have_a_priority_level_of_their_own(cluster_parts: Parts) -> None:
    documents = render(
        cluster_parts.helm, "--set=flowControl.shares=7,planner.serviceAccount.name=own"
    )
    level = of(documents, "PriorityLevelConfiguration")["mpslice"]["spec"]["limited"]
    assert level["nominalConcurrencyShares"] == 7
    schema = of(documents, "FlowSchema")["mpslice"]["spec"]
    assert schema["priorityLevelConfiguration"] == {"name": "mpslice"}
    assert schema["matchingPrecedence"] < 9000, "Kubernetes' own FlowSchema service-accounts"
    subjects = [each["serviceAccount"] for each in schema["rules"][0]["subjects"]]
    assert {each["name"] for each in subjects} == {"mpslice-webhook", "own", "mpslice-nodeagent"}
    assert {each["namespace"] for each in subjects} == {"mpslice-system"}
    none = {each["kind"] for each in render(cluster_parts.helm, "--set=flowControl.create=false")}
    assert not none & {"PriorityLevelConfiguration", "FlowSchema"}


def test_accounts_roles_and_definition_can_be_somebody_elses(cluster_parts: Parts) -> None:
    accounts = [f"{value}.serviceAccount.create=false" for value in COMPONENTS.values()]
    off = ",".join(["rbac.create=false,crds.enabled=false", *accounts])
    kinds = {each["kind"] for each in render(cluster_parts.helm, f"--set={off}")}
    rights = {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    assert not kinds & {*rights, "ServiceAccount", "CustomResourceDefinition"}
    hooks = {each["kind"] for each in everything(cluster_parts.helm, f"--set={off}")}
    assert not hooks & rights


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ((), "mpslice-system"),
        (("admission.excludedNamespaces={mpslice-system}",), "default"),
        (("admission.excludedNamespaces={other}",), "mpslice-system"),
    ],
)
def test_helm_test_asks_where_admission_is_asked(
    cluster_parts: Parts, values: tuple[str, ...], asked: str
) -> None:
    job = ("--show-only=templates/helm-test.yaml", *(f"--set={value}" for value in values))
    documents = everything(cluster_parts.helm, *job)
    (test,) = (each for each in documents if each["kind"] == "Job")
    args = test["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--namespace={asked}" in args
    (role,) = (each for each in documents if each["kind"] == "Role")
    assert role["metadata"]["namespace"] == asked


@pytest.mark.parametrize("keep", [True, False])
def test_definition_stays_or_goes_with_the_release(cluster_parts: Parts, keep: bool) -> None:
    documents = render(cluster_parts.helm, f"--set=crds.keep={str(keep).lower()}")
    (definition,) = of(documents, "CustomResourceDefinition").values()
    annotations = definition["metadata"].get("annotations", {})
    assert (annotations.get("helm.sh/resource-policy") == "keep") == keep


def test_extra_volumes_are_in_the_pod_and_in_its_container(cluster_parts: Parts) -> None:
    given = [
        f"{value}.extraVolumes[0].name=ca,{value}.extraVolumes[0].configMap.name=ca,"
        f"{value}.extraVolumeMounts[0].name=ca,{value}.extraVolumeMounts[0].mountPath=/ca"
        for value in COMPONENTS.values()
    ]
    documents = render(cluster_parts.helm, f"--set={','.join(given)}")
    pods = list(templates(documents))
    assert len(pods) == 4
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert {"name": "ca", "configMap": {"name": "ca"}} in pod["spec"]["volumes"]
        assert {"name": "ca", "mountPath": "/ca"} in container["volumeMounts"]


def test_services_have_the_annotations_that_they_are_given(cluster_parts: Parts) -> None:
    given = "--set=webhook.serviceAnnotations.a=b,monitoring.serviceAnnotations.c=d"
    services = of(render(cluster_parts.helm, given), "Service")
    assert services["mpslice-webhook"]["metadata"]["annotations"] == {"a": "b"}
    assert services["mpslice-metrics"]["metadata"]["annotations"] == {"c": "d"}


def test_jobs_of_hooks_change_their_names_with_their_templates(cluster_parts: Parts) -> None:
    """No Job's template can be changed, and without Helm the Job is not deleted first."""
    seen: dict[str, Json] = {}
    for value in ("image.tag=v1", "image.tag=v2", "commonLabels.a=b", "jobs.podLabels.c=d"):
        for name, job in of(everything(cluster_parts.helm, f"--set={value}"), "Job").items():
            assert seen.setdefault(name, job["spec"]["template"]) == job["spec"]["template"]
    assert len(seen) == 12


def test_what_belongs_to_a_hook_goes_with_it(cluster_parts: Parts) -> None:
    """So that the rights of the Jobs are in the cluster only while these run."""
    plain = {(each["kind"], each["metadata"]["name"]) for each in render(cluster_parts.helm)}
    for component in ("uninstall", "ungate", "test"):
        assert ("ServiceAccount", f"mpslice-{component}") not in plain
    hooks = [
        each["metadata"]["annotations"]
        for each in everything(cluster_parts.helm)
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    ]
    assert len(hooks) == 15
    policies = {each["helm.sh/hook-delete-policy"] for each in hooks}
    assert policies == {"before-hook-creation,hook-succeeded,hook-failed"}
    moments = [each["helm.sh/hook"] for each in hooks]
    counted = {key: len(list(group)) for key, group in itertools.groupby(sorted(moments))}
    assert counted == {"pre-delete": 5, "post-delete": 5, "test": 5}
