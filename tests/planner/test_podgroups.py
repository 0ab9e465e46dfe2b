"""PodGroups: their kind may be installed or not, and come and go while the planner runs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mpslice.groups import GROUP_LABEL
from mpslice.kube.api import PODS, PatchType, Resource
from mpslice.kube.errors import NotFound
from mpslice.kube.session import Session
from planner.state.podgroups import POD_GROUPS, PodGroups
from tests.planner.agents import add_node
from tests.planner.conftest import events_of, planning, served
from tests.planner.pods import bound, is_gated, make, slice_pod
from tests.waiting import DEADLINE, eventually

DEFINITIONS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
NAME = "podgroups.scheduling.x-k8s.io"
KIND: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": NAME,
        # Groups that end in k8s.io are protected; this says that a test owns it.
        "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
    },
    "spec": {
        "group": "scheduling.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"minMember": {"type": "integer"}},
                            }
                        },
                    }
                },
            }
        ],
    },
}


def group(minimum: int) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"minMember": minimum},
    }


def in_group(name: str, size: int) -> dict[str, Any]:
    pod = slice_pod(name, size)
    pod["metadata"]["labels"] = {GROUP_LABEL: "g"}
    return pod


async def install(kube: Session) -> None:
    await kube.create(DEFINITIONS, KIND)


async def uninstall(kube: Session) -> None:
    try:
        await kube.delete(DEFINITIONS, NAME)
    except NotFound:
        return

    async def gone() -> bool:
        try:
            await kube.read(DEFINITIONS, NAME)
        except NotFound:
            return True
        return False

    await eventually(gone, "the kind is gone")


async def create_group(kube: Session, minimum: int) -> None:
    async def created() -> bool:
        try:
            await kube.create(POD_GROUPS, group(minimum), namespace="default")
        except NotFound:
            return False  # the kind is served a moment after its definition is there
        return True

    await eventually(created, "the group is there")


@pytest.fixture
async def without_kind(kube: Session) -> AsyncIterator[None]:
    await uninstall(kube)
    yield
    await uninstall(kube)


async def test_minimums_follow_the_kind_and_its_groups(kube: Session, without_kind: None) -> None:
    changes: list[dict[str, int]] = []
    groups = PodGroups(kube, lambda: changes.append(dict(groups.minimums)))
    task = asyncio.create_task(groups.run())

    async def until(minimums: dict[str, int]) -> None:
        async def reached() -> bool:
            return dict(groups.minimums) == minimums

        await eventually(reached, f"the minimums are {minimums}")

    try:
        async with asyncio.timeout(DEADLINE):
            await groups.known.wait()
        assert dict(groups.minimums) == {}
        await install(kube)
        await create_group(kube, 3)
        await until({"default/g": 3})
        more = {"spec": {"minMember": 4}}
        await kube.patch(POD_GROUPS, "g", more, type=PatchType.MERGE, namespace="default")
        await until({"default/g": 4})
        await uninstall(kube)
        await until({})
        assert changes[-1] == {}
        await install(kube)
        await create_group(kube, 2)
        await until({"default/g": 2})
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_group_waits_for_the_minimum_of_its_podgroup(
    kube: Session, without_kind: None
) -> None:
    await install(kube)
    await create_group(kube, 3)
    await add_node(kube, "n1")
    async with planning(kube, {"n1": [80]}):
        await served(kube, "n1")
        await make(kube, in_group("m0", 20), in_group("m1", 20))
        told = await eventually(lambda: events_of(kube, "m0", "SliceUnavailable"), "it is told why")
        assert "Group (group g has 2 of 3 pods; create 1 more)" in told[0]
        assert await is_gated(kube, "m0")
        await make(kube, in_group("m2", 20))
        for name in ("m0", "m1", "m2"):
            assert await bound(kube, name) == "n1"
        # Beyond the minimum a pod of the group is like any other.
        await make(kube, in_group("m3", 40))

        async def let_go() -> bool:
            return not await is_gated(kube, "m3")

        await eventually(let_go, "the gate of the fourth is gone")
        assert (await kube.read(PODS, "m3", namespace="default"))["spec"].get("nodeName") is None
