"""What claims and volumes say of a pod: where it can run, and that a claim does not exist."""

import asyncio

import pytest

from mpslice.kube.api import Json
from planner.model.constraints import Expression, NodeTerm
from planner.model.pods import Pod
from planner.state.cluster import Cluster
from planner.state.parse import parse_pod
from planner.state.volumes import CLAIMS, VOLUMES, Claim, resolve
from tests.planner.leading import until
from tests.planner.memory import Memory
from tests.planner.pods import slice_pod
from tests.waiting import eventually

ZONE = (NodeTerm((Expression("zone", "In", ("b",)),)),)
POD = Pod("team-a", "p", volume_claims=("data",))


def a_volume(name: str, zone: str) -> Json:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}
    affinity = {"required": {"nodeSelectorTerms": [term]}}
    return {"metadata": {"name": name}, "spec": {"nodeAffinity": affinity}}


def a_claim(name: str, volume: str = "") -> Json:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"volumeName": volume}}


def test_pod_can_run_where_its_bound_volumes_can_be_reached() -> None:
    found = resolve(POD, {"team-a/data": Claim("pv-1")}, {"pv-1": ZONE})
    assert (found.volume_topology, found.volume_problem) == ((ZONE,), "")


@pytest.mark.parametrize("claim", [Claim(), Claim("everywhere")], ids=["unbound", "no topology"])
def test_claim_that_says_nothing_of_nodes_rules_none_out(claim: Claim) -> None:
    assert resolve(POD, {"team-a/data": claim}, {"pv-1": ZONE}) == POD


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        ({}, "PersistentVolumeClaim team-a/data does not exist"),
        ({"team-b/data": Claim()}, "PersistentVolumeClaim team-a/data does not exist"),
        ({"team-a/data": Claim(going=True)}, "PersistentVolumeClaim team-a/data is being deleted"),
    ],
)
def test_claim_that_cannot_be_used_is_named(claims: dict[str, Claim], problem: str) -> None:
    assert resolve(POD, claims, {}).volume_problem == problem


def test_claims_that_may_not_be_read_are_left_to_the_scheduler() -> None:
    assert resolve(POD, None, {}) is POD


def test_claims_of_a_pod_are_those_it_names_and_those_of_its_ephemeral_volumes() -> None:
    pod = slice_pod("p", 10)
    pod["spec"]["volumes"] = [
        {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
        {"name": "tmp", "emptyDir": {}},
    ]
    assert parse_pod(pod).volume_claims == ("data", "p-scratch")


async def test_change_of_a_claim_is_heard_of_only_where_a_pending_pod_uses_it() -> None:
    pod = slice_pod("p", 10)
    pod["metadata"]["uid"] = "p"
    pod["spec"]["volumes"] = [{"name": "a", "persistentVolumeClaim": {"claimName": "data"}}]
    kube, heard = Memory(pods=[pod]), [0]
    cluster = Cluster(kube, lambda _change: None, lambda: heard.append(1))
    following = asyncio.create_task(cluster.follow())
    try:
        await eventually(until(lambda: cluster.is_synced), "all is listed")
        await eventually(until(lambda: bool(cluster.pods[0].volume_problem)), "no claim is there")
        before = len(heard)
        kube.show(CLAIMS, a_claim("other"))
        kube.show(CLAIMS, a_claim("data", "pv-1"))
        await eventually(until(lambda: not cluster.pods[0].volume_problem), "the claim is seen")
        assert len(heard) == before + 1
        kube.show(VOLUMES, a_volume("pv-1", "b"))
        await eventually(
            until(lambda: cluster.pods[0].volume_topology == (ZONE,)), "its zone is known"
        )
        assert len(heard) == before + 2
    finally:
        following.cancel()
        await asyncio.wait({following})
