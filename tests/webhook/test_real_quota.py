"""A stock ResourceQuota and LimitRange over slices of all sizes, in the API server's own words."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cli.kueue import configuration
from hack.cluster.waiting import wait_until
from mpslice.slices import SliceSize
from tests.helm.accounts import type_warnings
from tests.waiting import DEADLINE
from tests.webhook.cases import GB, SLICE, container, pod, workload
from tests.webhook.cluster import Installation, Replica, called, create
from tests.webhook.quotas import QUOTA, SIDECAR, Team, example, quota_of, sized


@pytest.fixture(scope="module")
def replica(installation: Installation) -> Iterator[Replica]:
    """The chart with quota.enabled, and a replica."""
    installation.install("quota.enabled=true")
    with installation.serving("--quota=true") as replica:
        yield replica
    installation.install()


@pytest.fixture
def counting(installation: Installation, replica: Replica) -> Installation:
    """Where the Service leads to the replica."""
    installation.publish([replica])
    return installation


def test_quota_of_40_lets_10_and_30_in_and_no_more(counting: Installation) -> None:
    team = Team(counting, "quota-pods")
    team.apply(quota_of(40))
    team.until_used(0)
    assert team.create("ten", pod(sized(10))) == ""
    assert team.create("thirty", pod(sized(30))) == ""
    refused = team.create("one", pod(sized(1)))
    assert (
        f"exceeded quota: gpu-memory, requested: {QUOTA}=1, used: {QUOTA}=40, limited: {QUOTA}=40"
    ) in refused
    assert team.create("no-slice", pod(container({"cpu": "1"}))) == ""
    team.kubectl("label", "pod", "ten", "changed=yes")
    assert team.get("pod", "ten")["metadata"]["labels"] == {"changed": "yes"}
    team.delete("pod", "ten")
    team.until_used(30)
    assert team.create("one", pod(sized(1))) == ""
    team.until_used(31)


def test_quota_holds_through_a_deployment_its_update_and_its_end(counting: Installation) -> None:
    team = Team(counting, "quota-deployment")
    team.apply(quota_of(40))
    team.until_used(0)
    deployment = workload("Deployment", pod(sized(10)))
    deployment["spec"] |= {"replicas": 5, "strategy": {"type": "Recreate"}}
    assert team.create("train", deployment) == ""
    team.until_used(40)

    def failure() -> str:
        sets = team.get("replicasets")["items"]
        conditions = [c for each in sets for c in each["status"].get("conditions", [])]
        return next((c["message"] for c in conditions if c["type"] == "ReplicaFailure"), "")

    assert "exceeded quota: gpu-memory" in wait_until(
        failure, "the ReplicaSet says it", seconds=DEADLINE
    )
    update = '{"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "main", '
    update += '"resources": {"limits": {"nvidia.com/gpu-10gb": null, "nvidia.com/gpu-15gb": "1"}, '
    update += '"requests": null}}]}}}}'
    assert "patched" in team.kubectl("patch", "deployment", "train", "--patch", update)
    team.until_used(30)
    team.kubectl("delete", "deployment", "train")
    team.until_used(0)


def test_limit_range_of_20_a_container_is_kept_and_leaves_other_pods_alone(
    counting: Installation, replica: Replica
) -> None:
    team = Team(counting, "limit-range")
    team.apply(example("limit-range.yaml"))
    team.apply(quota_of(100))
    team.until_used(0)
    counting.publish([])  # the webhook is away
    assert wait_until(
        lambda: team.create("no-slice", pod(container({"cpu": "1"}))) == "",
        "ranged",
        seconds=DEADLINE,
    )
    amounts = team.get("pod", "no-slice")["spec"]["containers"][0]["resources"]["limits"]
    assert amounts == {"cpu": "1", GB: "0"}
    counting.publish([replica])
    mixed = pod(sized(20), sized(20, "second"), container({"cpu": "1"}, name="proxy"))
    wait_until(lambda: team.create("twenty", mixed) == "", "the webhook serves", seconds=DEADLINE)
    refused = team.create("thirty", pod(sized(30)))
    assert f"maximum {GB} usage per Container is 20, but limit is 30" in refused
    assert team.used() == 40


def test_limit_range_without_a_default_is_named_to_pods_without_slices(
    counting: Installation,
) -> None:
    team = Team(counting, "limit-range-without")
    ranged = example("limit-range.yaml")
    del ranged["spec"]["limits"][0]["default"], ranged["spec"]["limits"][0]["defaultRequest"]
    team.apply(ranged)
    refused = wait_until(
        lambda: create(counting, called(pod(container({"cpu": 1})), "p", team.name))[1],
        "ranged",
        seconds=DEADLINE,
    )
    assert f"asks for {GB}: 20, but it counts slices, and the container has none" in refused
    assert f"give a LimitRange that sets it the default {GB}: 0" in refused
    assert team.create("slice", pod(sized(10), container({"cpu": 1}, name="proxy"))) == ""
    limits = [
        each["resources"]["limits"][GB] for each in team.get("pod", "slice")["spec"]["containers"]
    ]
    assert limits == ["10", "0"]


def test_what_quota_counts_is_what_the_pod_holds(counting: Installation) -> None:
    team = Team(counting, "quota-sums")
    team.apply(quota_of(1000))
    team.until_used(0)
    pods = {
        "init, taken over": (pod(sized(10), init=(sized(10, "a"),)), 10),
        "init, left behind": (pod(sized(10), init=(sized(20, "a"),)), 30),
        "sidecar": (pod(sized(10), init=(sized(20, "a", **SIDECAR),)), 30),
        "init beside a sidecar": (
            pod(sized(10), init=(sized(20, "a", **SIDECAR), sized(20, "b"))),
            50,
        ),
        "pod-level": (pod(sized(10), resources={"requests": {"cpu": "1", "memory": "1Gi"}}), 10),
    }
    total = 0
    for index, (manifest, gb) in enumerate(pods.values()):
        assert team.create(f"p{index}", manifest) == ""
        total += gb
        team.until_used(total)
    cluster = f"--kubeconfig={counting.plane.kubeconfig}"
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "kueue-config", cluster, f"--namespace={team.name}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.stdout, done.stderr) == (f"{configuration([SliceSize(10), SliceSize(20)])}\n", "")


def test_nobody_writes_fewer_gb_than_the_slice(counting: Installation) -> None:
    team = Team(counting, "quota-faked")
    team.apply(quota_of(40))
    team.until_used(0)
    assert team.create("faked", pod(container({SLICE: 1, GB: 1}))) == ""
    team.until_used(10)
    patch = json.dumps(
        {"spec": {"containers": [{"name": "main", "resources": {"requests": {GB: "1"}}}]}}
    )
    for where in ((), ("--subresource=resize",)):
        said = team.kubectl("patch", "pod", "faked", *where, "--patch", patch)
        assert "Forbidden: " in said or "is invalid" in said, said
    pod_level = pod(sized(10), resources={"limits": {GB: "1"}})
    assert "is invalid" in team.create("pod-level", pod_level)
    assert "QuotaMismatch" in team.create("no-slice", pod(container({GB: 5})))
    assert team.used() == 10


def test_policy_that_counts_has_no_type_warnings(counting: Installation) -> None:
    assert type_warnings(counting.plane, "mpslice-pods") == []
