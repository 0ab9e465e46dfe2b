"""What the API model promises, as cases for any `Kube`: the model and a real API server alike.

Each case works on objects of its own, whose names begin with `own`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from mpslice.kube.api import (
    LEASES,
    NODE_LAYOUTS,
    PODS,
    Json,
    Kube,
    PatchType,
    Resource,
    list_all,
)
from mpslice.kube.errors import ApiError, Conflict, NotFound
from planner.model.pods import GATE

Case = Callable[[Kube, str], Awaitable[None]]

CASES: Final[list[Case]] = []
_SECONDS: Final = 10.0


def _case(case: Case) -> Case:
    CASES.append(case)
    return case


async def _lease(kube: Kube, name: str, **labels: str) -> Json:
    body: Json = {"metadata": {"name": name, "labels": labels}, "spec": {"holderIdentity": "a"}}
    return await kube.create(LEASES, body, namespace="default")


async def _layout(kube: Kube, name: str) -> Json:
    body = {
        "apiVersion": NODE_LAYOUTS.api_version,
        "kind": "NodeLayout",
        "metadata": {"name": name},
        "spec": {"release": False, "gpus": []},
        "status": {"observedGeneration": 7},
    }
    return await kube.create(NODE_LAYOUTS, body)


async def _pod(kube: Kube, name: str, **spec: Any) -> Json:
    body: Json = {
        "metadata": {"name": name, "labels": {"of": name}},
        "spec": {
            "containers": [{"name": "main", "image": "none"}],
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            **spec,
        },
        "status": {"phase": "Running"},
    }
    return await kube.create(PODS, body, namespace="default")


async def _patch_lease(kube: Kube, name: str, body: Any, type: PatchType) -> Json:
    return await kube.patch(LEASES, name, body, type=type, namespace="default")


@_case
async def names_are_unique_and_missing_ones_are_not_found(kube: Kube, own: str) -> None:
    made = await _lease(kube, own)
    assert made["metadata"]["namespace"] == "default"
    with pytest.raises(Conflict) as raised:
        await _lease(kube, own)
    assert raised.value.reason == "AlreadyExists"
    await kube.delete(LEASES, own, namespace="default")
    for attempt in (
        kube.read(LEASES, own, namespace="default"),
        kube.delete(LEASES, own, namespace="default"),
        _patch_lease(kube, own, {}, PatchType.MERGE),
        kube.replace(LEASES, own, made, namespace="default"),
    ):
        with pytest.raises((NotFound, Conflict)):
            await attempt


@_case
async def write_of_an_older_version_is_a_conflict(kube: Kube, own: str) -> None:
    first = await _lease(kube, own)
    second = await kube.replace(
        LEASES, own, {**first, "spec": {"holderIdentity": "b"}}, namespace="default"
    )
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    with pytest.raises(Conflict):
        await kube.replace(LEASES, own, first, namespace="default")
    old = {"resourceVersion": first["metadata"]["resourceVersion"]}
    body = {"metadata": old, "spec": {"holderIdentity": "c"}}
    with pytest.raises(Conflict):
        await _patch_lease(kube, own, body, PatchType.MERGE)
    with pytest.raises(Conflict):
        await kube.delete(LEASES, own, namespace="default", resource_version=old["resourceVersion"])
    del second["metadata"]["resourceVersion"]
    with pytest.raises(ApiError) as raised:
        await kube.replace(LEASES, own, second, namespace="default")
    assert raised.value.status == 422


@_case
async def write_to_another_object_of_the_name_is_refused(kube: Kube, own: str) -> None:
    """A patch that names another uid is invalid, and a conflict if it names a version besides."""
    made = (await _lease(kube, own), await _pod(kube, own))
    for resource, obj in zip((LEASES, PODS), made, strict=True):
        body = {"metadata": {"uid": "other"}}

        async def patch(resource: Resource, body: Json) -> Json:
            return await kube.patch(resource, own, body, type=PatchType.MERGE, namespace="default")

        with pytest.raises(ApiError) as raised:
            await patch(resource, body)
        assert raised.value.status == 422
        version = str(int(obj["metadata"]["resourceVersion"]) - 1)
        with pytest.raises(Conflict):
            await patch(resource, {"metadata": {"uid": "other", "resourceVersion": version}})
        with pytest.raises(Conflict):
            await kube.delete(resource, own, namespace="default", uid="other")


@_case
async def write_that_changes_nothing_makes_no_version(kube: Kube, own: str) -> None:
    made = await _lease(kube, own)
    body = {"spec": {"holderIdentity": "a"}, "metadata": {"annotations": {"gone": None}}}
    again = await _patch_lease(kube, own, body, PatchType.MERGE)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


@_case
async def patch_takes_away_what_is_null(kube: Kube, own: str) -> None:
    await _lease(kube, own, a="1", b="2")
    body = {"metadata": {"labels": {"a": None}}, "spec": {"holderIdentity": None}}
    left = await _patch_lease(kube, own, body, PatchType.MERGE)
    assert left["metadata"]["labels"] == {"b": "2"}
    assert "holderIdentity" not in left["spec"]


@_case
async def json_patch_is_taken_as_a_whole_or_not(kube: Kube, own: str) -> None:
    made = await _lease(kube, own)
    replacing = {"op": "replace", "path": "/spec/holderIdentity", "value": "b"}
    wrong = {"op": "test", "path": "/spec/holderIdentity", "value": "z"}
    with pytest.raises(ApiError) as raised:
        await _patch_lease(kube, own, [replacing, wrong], PatchType.JSON)
    assert raised.value.status == 422
    assert (await kube.read(LEASES, own, namespace="default"))["spec"] == made["spec"]
    version = {"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}
    with pytest.raises(Conflict):
        await _patch_lease(kube, own, [replacing, version], PatchType.JSON)
    done = await _patch_lease(kube, own, [replacing], PatchType.JSON)
    assert done["spec"]["holderIdentity"] == "b"


@_case
async def layouts_spec_and_status_are_written_apart(kube: Kube, own: str) -> None:
    made = await _layout(kube, own)
    assert made["metadata"]["generation"] == 1
    assert "status" not in made
    body = {"spec": {"release": True}, "status": {"observedGeneration": 5}}
    spec = await kube.patch(NODE_LAYOUTS, own, body, type=PatchType.MERGE)
    assert spec["metadata"]["generation"] == 2
    assert "status" not in spec
    body = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {"release": False},
        "status": {"observedGeneration": 2},
    }
    status = await kube.patch(NODE_LAYOUTS, own, body, type=PatchType.MERGE, subresource="status")
    assert status["status"] == {"observedGeneration": 2}
    assert status["spec"]["release"] is True
    assert status["metadata"]["generation"] == 2
    assert "annotations" not in status["metadata"]
    with pytest.raises(ApiError) as raised:
        await kube.patch(NODE_LAYOUTS, own, {}, type=PatchType.STRATEGIC)
    assert raised.value.status == 415


@_case
async def pods_gates_may_go_and_never_come(kube: Kube, own: str) -> None:
    gates = [{"name": GATE}, {"name": "example.com/other"}]
    made = await _pod(kube, own, schedulingGates=gates)
    assert made["status"]["phase"] == "Pending"
    assert [c["reason"] for c in made["status"]["conditions"]] == ["SchedulingGated"]

    async def patch(spec: Json) -> Json:
        return await kube.patch(
            PODS, own, {"spec": spec}, type=PatchType.MERGE, namespace="default"
        )

    left = await patch({"schedulingGates": gates[:1]})
    assert left["spec"]["schedulingGates"] == gates[:1]
    for refused in ({"schedulingGates": gates}, {"nodeName": "n1"}, {"schedulerName": "x"}):
        with pytest.raises(ApiError) as raised:
            await patch(refused)
        assert raised.value.status == 422
    assert "schedulingGates" not in (await patch({"schedulingGates": None}))["spec"]


@_case
async def pods_status_takes_annotations_and_conditions_by_their_type(kube: Kube, own: str) -> None:
    await _pod(kube, own)

    async def patch(body: Json, type: PatchType) -> Json:
        return await kube.patch(
            PODS, own, body, type=type, namespace="default", subresource="status"
        )

    for kind, status in (("example.com/a", "True"), ("example.com/b", "False")):
        body: Json = {"status": {"conditions": [{"type": kind, "status": status}]}}
        done = await patch(body, PatchType.STRATEGIC)
    told = {c["type"]: c["status"] for c in done["status"]["conditions"]}
    assert told == {"example.com/a": "True", "example.com/b": "False"}
    body = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {"schedulerName": "x"},
        "status": {"nominatedNodeName": "n1", "conditions": []},
    }
    done = await patch(body, PatchType.MERGE)
    assert done["metadata"]["annotations"] == {"a": "b"}
    assert done["spec"]["schedulerName"] == "nobody"
    assert done["status"]["nominatedNodeName"] == "n1"
    assert not done["status"].get("conditions")


@_case
async def bound_pod_ends_when_its_kubelet_says_so(kube: Kube, own: str) -> None:
    await _pod(kube, own, nodeName=f"{own}-node")
    await kube.delete(PODS, own, namespace="default")
    assert "deletionTimestamp" in (await kube.read(PODS, own, namespace="default"))["metadata"]
    await kube.delete(PODS, own, namespace="default", grace_seconds=0)
    with pytest.raises(NotFound):
        await kube.read(PODS, own, namespace="default")
    await _pod(kube, own)
    await kube.delete(PODS, own, namespace="default")  # bound to no node, it goes at once
    with pytest.raises(NotFound):
        await kube.read(PODS, own, namespace="default")


@_case
async def pages_are_of_one_moment(kube: Kube, own: str) -> None:
    for number in range(5):
        await _lease(kube, f"{own}-{number}", of=own)
    query = {"labelSelector": f"of={own}", "limit": "2"}
    page = await kube.list_page(LEASES, namespace="default", query=query)
    await kube.delete(LEASES, f"{own}-3", namespace="default")
    await _lease(kube, f"{own}-9", of=own)
    found, versions = list(page["items"]), [page["metadata"]["resourceVersion"]]
    while token := page["metadata"].get("continue"):
        page = await kube.list_page(LEASES, namespace="default", query={**query, "continue": token})
        found += page["items"]
        versions.append(page["metadata"]["resourceVersion"])
    assert [item["metadata"]["name"] for item in found] == [f"{own}-{n}" for n in range(5)]
    assert len(versions) == 3
    assert len(set(versions)) == 1


@_case
async def labels_and_fields_select(kube: Kube, own: str) -> None:
    for name, labels in (("a", {"kind": "x"}), ("b", {"kind": "y"}), ("c", {})):
        await _lease(kube, f"{own}-{name}", of=own, **labels)

    async def names(selector: str) -> str:
        query = {"labelSelector": f"of={own},{selector}"}
        items = await list_all(kube, LEASES, namespace="default", query=query)
        return "".join(item["metadata"]["name"][-1] for item in items)

    wanted = {
        "kind=x": "a",
        "kind==x": "a",
        "kind!=x": "bc",
        "kind": "ab",
        "!kind": "c",
        "kind in (x,y)": "ab",
        "kind notin (x)": "bc",
    }
    assert {each: await names(each) for each in wanted} == wanted
    await _pod(kube, f"{own}-free")
    await _pod(kube, f"{own}-bound", nodeName=f"{own}-node")

    async def pods(selector: str) -> list[str]:
        items = await list_all(kube, PODS, query={"fieldSelector": selector})
        return [n for item in items if (n := item["metadata"]["name"]).startswith(own)]

    assert await pods(f"spec.nodeName={own}-node") == [f"{own}-bound"]
    assert await pods("spec.nodeName=,status.phase=Pending") == [f"{own}-free"]
    assert await pods("spec.nodeName!=") == [f"{own}-bound"]
    assert await pods(f"metadata.name={own}-free") == [f"{own}-free"]
    with pytest.raises(ApiError) as raised:
        await pods("spec.nodename=x")
    assert raised.value.status == 400


@_case
async def watch_tells_each_change_of_what_it_selects(kube: Kube, own: str) -> None:
    query = {"labelSelector": f"of={own}"}
    page = await kube.list_page(LEASES, namespace="default", query=query)
    since = {"resourceVersion": page["metadata"]["resourceVersion"], "timeoutSeconds": "60"}
    await _lease(kube, own, of=own)
    watch = kube.watch(LEASES, namespace="default", query={**query, **since})
    events = aiter(watch)

    async def told() -> tuple[str, str]:
        async with asyncio.timeout(_SECONDS):
            event = await anext(events)
        obj = event["object"]
        assert int(obj["metadata"]["resourceVersion"]) > int(since["resourceVersion"])
        return event["type"], obj["spec"]["holderIdentity"]

    assert await told() == ("ADDED", "a")
    await _lease(kube, f"{own}-other", of="another")
    await _patch_lease(kube, own, {"spec": {"holderIdentity": "b"}}, PatchType.MERGE)
    assert await told() == ("MODIFIED", "b")
    away = {"metadata": {"labels": {"of": "x"}}, "spec": {"holderIdentity": "c"}}
    await _patch_lease(kube, own, away, PatchType.MERGE)
    assert await told() == ("DELETED", "b")
    await _patch_lease(kube, own, {"metadata": {"labels": {"of": own}}}, PatchType.MERGE)
    assert await told() == ("ADDED", "c")
    await kube.delete(LEASES, own, namespace="default")
    assert await told() == ("DELETED", "c")
    await watch.aclose()  # type: ignore[attr-defined]  # both are generators


@_case
async def watch_ends_in_time_with_a_bookmark(kube: Kube, own: str) -> None:
    made = await _lease(kube, own, of=own)
    query = {
        "labelSelector": f"of={own}",
        "resourceVersion": made["metadata"]["resourceVersion"],
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "3",
    }
    async with asyncio.timeout(_SECONDS):
        events = [e async for e in kube.watch(LEASES, namespace="default", query=query)]
    assert {event["type"] for event in events} <= {"BOOKMARK"}
