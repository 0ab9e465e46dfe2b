"""The API model keeps the contract that a real API server is asked for, too (tests/planner)."""

import pytest

from mpslice.kube.api import NODE_LAYOUTS, NODES
from mpslice.kube.errors import Gone, Unreachable
from tests.api.contract import CASES, Case
from tests.api.kube import ModelKube


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_model_keeps(case: Case) -> None:
    await case(ModelKube(), "contract")


async def test_page_of_a_compacted_version_is_gone() -> None:
    kube = ModelKube()
    for name in "ab":
        kube.api.put(NODES, {"metadata": {"name": name}})
    page = await kube.list_page(NODES, query={"limit": "1"})
    kube.api.compact()
    with pytest.raises(Gone):
        await kube.list_page(NODES, query={"continue": page["metadata"]["continue"]})


async def test_watch_of_a_compacted_version_is_gone() -> None:
    kube = ModelKube()
    since = kube.api.put(NODES, {"metadata": {"name": "a"}})["metadata"]["resourceVersion"]
    kube.api.put(NODES, {"metadata": {"name": "b"}})
    kube.api.compact()
    with pytest.raises(Gone):
        await anext(aiter(kube.watch(NODES, query={"resourceVersion": since})))


async def test_watch_breaks_off_when_told() -> None:
    kube = ModelKube()
    kube.api.put(NODES, {"metadata": {"name": "a"}})
    watch = aiter(kube.watch(NODES, query={}))
    assert (await anext(watch))["type"] == "ADDED"
    kube.api.end_watches(Unreachable("cut"))
    with pytest.raises(Unreachable):
        await anext(watch)
    assert not kube.api.streams


async def test_what_only_one_object_owned_goes_with_it() -> None:
    kube = ModelKube()
    node = kube.api.put(NODES, {"metadata": {"name": "a"}})
    owners = [{"uid": node["metadata"]["uid"]}]
    kube.api.put(NODE_LAYOUTS, {"metadata": {"name": "a", "ownerReferences": owners}})
    await kube.delete(NODES, "a")
    assert not kube.api.all(NODE_LAYOUTS)
