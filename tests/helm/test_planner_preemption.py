"""With `planner.preemption` the planner may evict pods, in one way, on a real API server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from mpslice.kube.errors import ApiError
from mpslice.kube.session import Session
from planner.model.pods import Pod
from planner.state.parse import parse_pod
from planner.writes.actions import Evict
from planner.writes.perform import perform
from tests.e2e.cluster import until
from tests.helm.accounts import Account, Json, Write, apply, install_accounts, type_warnings
from tests.helm.planner_writes import pod
from tests.helm.planner_writes.objects import RBAC

NAME = "preempted"
POD = f"/api/v1/namespaces/default/pods/{NAME}"


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    install_accounts(control_plane, "--set=planner.preemption=true")
    yield control_plane
    install_accounts(control_plane)
    Account(control_plane, "mpslice-planner").until_refused(evicts(a_uid="any"), RBAC)


@pytest.fixture
def victim(plane: ControlPlane) -> Iterator[Pod]:
    """A pod that is bound to nothing, which no budget keeps from being evicted."""
    made = pod(NAME, {"nvidia.com/gpu-10gb": "1"})
    made["metadata"]["labels"] = {"app": "preempted"}
    apply(plane, made)
    yield parse_pod(plane.api.get(POD))
    plane.kubectl("delete", "pod", NAME, "--ignore-not-found", "--grace-period=0", "--force")


@pytest.fixture
def planner(plane: ControlPlane, victim: Pod) -> Account:
    """The planner's account, once it may evict."""
    account = Account(plane, "mpslice-planner")
    until(lambda: account.ask(evicts(victim.uid)) == "", "the planner may evict")
    return account


def evicts(a_uid: str = "", namespace: str = "default", **options: Json | int) -> Write:
    preconditions = {"preconditions": {"uid": a_uid}} if a_uid else {}
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": NAME, "namespace": namespace},
        "deleteOptions": {**preconditions, **options},
    }
    return Write(f"/api/v1/namespaces/{namespace}/pods/{NAME}/eviction", body, "POST")


def test_planner_evicts_as_its_own_code_does(
    plane: ControlPlane, planner: Account, victim: Pod, tmp_path: Path
) -> None:
    async def evict() -> None:
        config = str(planner.kubeconfig(tmp_path / "config"))
        async with await Session.connect("planner", config) as kube:
            another = Pod("default", NAME, uid="another")
            with pytest.raises(ApiError) as conflict:
                await perform(kube, Evict(another, victim))
            assert conflict.value.status == 409
            await perform(kube, Evict(victim, victim))

    asyncio.run(evict())
    left = plane.api.find(POD)
    assert left is None or "deletionTimestamp" in left["metadata"]


@pytest.mark.parametrize(
    "write",
    [evicts(), evicts("any", gracePeriodSeconds=0)],
    ids=["whoever has the name", "at once"],
)
def test_planner_may_not_evict_otherwise(planner: Account, write: Write) -> None:
    assert "the mpslice planner evicts pods by their uid" in planner.ask(write)


def test_planner_may_not_do_else_what_it_could_not_before(planner: Account) -> None:
    assert RBAC in planner.ask(Write(POD, None, "DELETE"))
    words = "nothing in a pod's metadata but annotations"
    assert words in planner.ask(Write(POD, {"metadata": {"labels": {"app": "mine"}}}))


def test_the_api_server_finds_nothing_wrong_with_the_policy(plane: ControlPlane) -> None:
    assert type_warnings(plane, "mpslice-planner-pods") == []
