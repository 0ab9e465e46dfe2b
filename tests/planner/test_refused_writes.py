"""The controller where its writes are refused: pods hold up nobody, and are placed elsewhere."""

from collections.abc import Sequence
from typing import Any

import pytest

from mpslice.kube.api import NODE_LAYOUTS, Json, PatchType, Resource
from mpslice.kube.errors import ApiError
from planner.state.absence import Absences
from planner.writes import setbacks
from tests.planner.leading import layout_object, leading, node_object, pod_object, until
from tests.planner.memory import Memory
from tests.planner.test_decide import a_layout
from tests.waiting import eventually


class Refusing(Memory):
    """The first `times` nominations get an answer that says no more than no. `asked` is what was
    written of pods, without their conditions.
    """

    def __init__(self, status: int, items: dict[str, list[Json]], times: int = 1_000) -> None:
        super().__init__(**items)
        self._status = status
        self._times = times
        self.asked: list[tuple[str, str | None]] = []

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        *,
        type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        answer = await super().patch(
            resource, name, body, type=type, namespace=namespace, subresource=subresource
        )
        status = body.get("status", {}) if isinstance(body, dict) else {}
        if subresource is not None and "nominatedNodeName" not in status:
            return answer
        self.asked.append((name, subresource))
        if subresource is None:
            return answer
        if self._times > 0:
            self._times -= 1
            raise ApiError("denied", status=self._status)
        return {**answer, "status": status}


def one_free_slice_and_a_rival() -> dict[str, list[Json]]:
    """One slice is free, for which a pod without a gate is the rival of an older one."""
    return {
        "nodes": [node_object("n1", {"nvidia.com/gpu-10gb": "1", "nvidia.com/gpu-70gb": "1"})],
        "nodelayouts": [layout_object(a_layout("n1", free={10: 1}, used=[(70, "default/other")]))],
        "pods": [
            pod_object("first", 10, "2026-01-01T00:00:00Z"),
            pod_object("rival", 10, "2026-01-02T00:00:00Z", gated=False),
        ],
    }


async def test_pod_is_nominated_although_the_planners_token_had_ended() -> None:
    kube = Refusing(401, one_free_slice_and_a_rival(), times=1)
    async with leading(kube):
        await eventually(until(lambda: ("first", None) in kube.seen), "its gate is taken away")
        assert kube.asked[:2] == [("first", "status"), ("first", "status")]


@pytest.mark.parametrize(("status", "asked"), [(400, 1), (403, 1), (422, 1), (500, 3)])
async def test_pod_whose_nomination_is_refused_holds_up_nobody(
    status: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setbacks, "FAULTS", 3)
    kube = Refusing(status, one_free_slice_and_a_rival())
    async with leading(kube):
        await eventually(until(lambda: ("first", None) in kube.seen), "its gate is taken away")
        assert kube.asked.count(("first", "status")) == asked


async def test_pod_is_nominated_although_the_api_server_was_in_trouble_at_first() -> None:
    kube = Refusing(500, one_free_slice_and_a_rival(), times=3)
    async with leading(kube):
        await eventually(until(lambda: ("first", None) in kube.seen), "its gate is taken away")
        before = kube.asked[: kube.asked.index(("first", None))]
        assert before.count(("first", "status")) == 4


class Unwritable(Memory):
    """Nobody may write the layout of n1."""

    async def patch(self, resource: Resource, name: str, *arguments: Any, **options: Any) -> Json:
        if resource is NODE_LAYOUTS and name == "n1":
            raise ApiError("denied by policy x", status=422)
        return await super().patch(resource, name, *arguments, **options)


def a_pod_and_two_nodes() -> dict[str, list[Json]]:
    """Either node is empty and can hold the pod; n1 is the first."""
    return {
        "nodes": [node_object("n1", {}), node_object("n2", {})],
        "nodelayouts": [layout_object(a_layout(name)) for name in ("n1", "n2")],
        "pods": [pod_object("p", 20, "2026-01-01T00:00:00Z")],
    }


async def test_pod_is_placed_elsewhere_when_a_layout_cannot_be_written() -> None:
    kube = Unwritable(**a_pod_and_two_nodes())
    async with leading(kube, absences=lambda: Absences(silence=0.2)) as recorder:
        await eventually(until(lambda: ("n2", None) in kube.seen), "the other node is carved")
        await eventually(
            until(lambda: ("n1", "NodeAgentAway") in recorder.said), "the node is told of"
        )


async def test_pod_is_placed_elsewhere_when_an_agent_takes_no_layout() -> None:
    kube = Memory(**a_pod_and_two_nodes())
    async with leading(kube, absences=lambda: Absences(silence=0.2)):
        await eventually(until(lambda: ("n1", None) in kube.seen), "one node is carved")
        written = layout_object(a_layout("n1", spec={20: 1}))
        written["metadata"]["generation"] = 2
        kube.show(NODE_LAYOUTS, written, "MODIFIED")
        await eventually(until(lambda: ("n2", None) in kube.seen), "then the other")
