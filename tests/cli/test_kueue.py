"""`kubectl mpslice kueue-config`: sizes from arguments or the cluster, in Kueue's own words."""

import asyncio
from typing import Any

import pytest
import yaml

from cli.kueue import configuration, gpu_sizes, sizes_of
from cli.reading.installed import DEPLOYMENTS
from mpslice.kube.api import NODES, PODS, Resource
from mpslice.slices import SliceSize
from tests.cli.fake_api import FakeApi, Grant
from tests.cli.objects import meta, pod
from tests.cli.plan.given import Run, workload

JOBS = Resource("batch/v1", "jobs", namespaced=True)


def kueue_requests(requests: dict[str, int], text: str) -> dict[str, int]:
    """What Kueue makes of a pod's requests (pkg/workload/workload.go): it leaves out what is
    excluded, then replaces each input by its outputs."""
    resources = yaml.safe_load(text)["resources"]
    excluded = tuple(resources["excludeResourcePrefixes"])
    rules = {rule["input"]: rule for rule in resources["transformations"]}
    found: dict[str, int] = {}
    for name, amount in requests.items():
        if name.startswith(excluded):
            continue
        rule = rules.get(name, {"strategy": "Retain", "outputs": {}})
        kept = {name: 1} if rule["strategy"] == "Retain" else {}
        for output, factor in {**kept, **rule["outputs"]}.items():
            found[output] = found.get(output, 0) + factor * amount
    return found


def test_slices_of_all_sizes_become_gb_and_are_counted_once() -> None:
    text = configuration([SliceSize(20), SliceSize(10), SliceSize(10)])
    asked = {"cpu": 2, "nvidia.com/gpu-10gb": 2, "nvidia.com/gpu-20gb": 1, "mpslice.io/gb": 40}
    assert kueue_requests(asked, text) == {"cpu": 2, "mpslice.io/gb": 40}
    assert [rule["input"] for rule in yaml.safe_load(text)["resources"]["transformations"]] == [
        "nvidia.com/gpu-10gb",
        "nvidia.com/gpu-20gb",
    ]


def test_sizes_come_from_arguments_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys)("kueue-config", "--size=10gb", "--gpu=2GB", "--kubeconfig=/none")
    rules = yaml.safe_load(run.out)["resources"]["transformations"]
    assert run.status == 0
    assert [rule["outputs"]["mpslice.io/gb"] for rule in rules] == [1, 2, 10]


@pytest.mark.parametrize(
    ("memory", "largest"), [("80GB", 80), ("81920MiB", 85), ("24G", 24), ("1Gi", 1), ("16GiB", 17)]
)
def test_gpu_holds_every_size_up_to_what_it_offers(memory: str, largest: int) -> None:
    assert gpu_sizes(memory) == range(1, largest + 1)


@pytest.mark.parametrize(
    "arguments", [("--gpu=80",), ("--gpu=0GB",), ("--gpu=9MiB",), ("--size=10",), ("--size=010gb",)]
)
def test_what_is_no_size_is_told(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(capsys)("kueue-config", *arguments)
    assert (run.status, run.out) == (2, "")
    assert len(run.err.splitlines()) == 1


def seen(api: FakeApi, namespace: str = "") -> tuple[list[int], list[str]]:
    found, warnings = asyncio.run(sizes_of(api, namespace))
    return sorted(found), warnings


def objects() -> list[tuple[Resource, Any]]:
    node = {"metadata": meta("n1"), "status": {"capacity": {"nvidia.com/gpu-5gb": "0", "cpu": "8"}}}
    return [
        (NODES, node),
        (PODS, pod("a", 10)),
        (PODS, pod("b", 30, namespace="team-b")),
        (JOBS, {**workload("Job", "j", 20)}),
    ]


def test_sizes_of_the_cluster_are_those_that_nodes_pods_and_jobs_name() -> None:
    assert seen(FakeApi(objects())) == ([5, 10, 20, 30], [])
    assert seen(FakeApi(objects()), "team-b") == ([30], [])


def test_allowed_sizes_of_the_chart_are_all_that_can_be_asked_for() -> None:
    arguments = ["--allowed-sizes=10gb,40gb", "--ops-listen=[::]:8080"]
    labels = {"app.kubernetes.io/name": "mpslice", "app.kubernetes.io/component": "webhook"}
    webhook = {
        "metadata": meta("mpslice-webhook", "mpslice-system", labels=labels),
        "spec": {"template": {"spec": {"containers": [{"args": arguments}]}}},
    }
    assert seen(FakeApi([*objects(), (DEPLOYMENTS, webhook)])) == ([10, 40], [])


def test_what_may_not_be_seen_is_told() -> None:
    found, warnings = seen(FakeApi(objects(), [Grant("pods")]))
    assert found == [10, 30]
    assert warnings == [
        "you may not list nodes: sizes that only they name are missing",
        "you may not list jobs.batch in all namespaces: sizes that only they name are missing",
    ]
