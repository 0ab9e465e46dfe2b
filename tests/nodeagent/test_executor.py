"""Layouts at the two seams: what is asked of the enforcer, the hand-off and the API, and when."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Resource
from mpslice.kube.errors import Unreachable
from mpslice.nodelayout import APPLIED_ANNOTATION, NodeLayout, parse_node_layout
from nodeagent.cluster import publisher
from nodeagent.cluster.publisher import LATER_SECONDS, Publisher, Shown
from nodeagent.cluster.report import project_node, ready
from nodeagent.cluster.view import project_layout, reported_status
from nodeagent.hardware import Gpu
from nodeagent.layout import executor, withdrawal
from nodeagent.layout.executor import Executor
from nodeagent.layout.withdrawal import Withdrawal
from nodeagent.metrics import Metrics
from nodeagent.seams import Enforcer, Handoff
from nodeagent.settings import Settings
from nodeagent.slices.table import SliceTable
from tests.nodeagent.conftest import AMPERE, NODE, gpu, pod_manifest
from tests.nodeagent.fake_kube import FakeKube
from tests.nodeagent.fake_seams import FakeEnforcer, FakeHandoff
from tests.waiting import eventually


class Parts:
    """An executor on the fakes of both seams; `calls` is all that it asks of anybody."""

    def __init__(self, folder: Path, kube: FakeKube | None = None) -> None:
        self.calls: list[str] = []
        self.kube = kube or FakeKube()
        if kube is None:
            self.kube.put(NODES, {"metadata": {"name": NODE}, "status": {}})
        self.kube.on_write = lambda plural, _: self.calls.append(f"write {plural}")
        self.table = SliceTable([Gpu(GpuUuid(gpu(1)), 0, "A100", 81920, 626, AMPERE)])
        self.handoff = FakeHandoff(self.table, self.calls)
        self.enforcer = FakeEnforcer(self.calls)
        handoff: Handoff = self.handoff
        enforcer: Enforcer = self.enforcer
        settings = Settings(NODE, folder, folder / "p.sock", folder / "mps", None)
        publisher = Publisher(
            self.kube,
            settings,
            self.table,
            lambda: reported_status(project_layout(self.kube.get(NODE_LAYOUTS, NODE))),
            Shown,
        )
        taking = Withdrawal(self.kube, NODE, self.table, handoff, publisher, lambda: False)
        self.executor = Executor(
            settings, self.table, handoff, enforcer, publisher, taking, Metrics(NODE)
        )

    async def apply(self, slices: dict[str, int], *, release: bool = False) -> float | None:
        """Brings one layout about; the calls of it alone are in `calls` after."""
        spec = {"release": release, "gpus": [{"uuid": gpu(1), "slices": slices}]}
        if self.kube.api.has(NODE_LAYOUTS, NODE):
            self.kube.change(NODE_LAYOUTS, NODE, {"spec": spec})
        else:
            self.kube.put(NODE_LAYOUTS, {"metadata": {"name": NODE}, "spec": spec})
        return await self.converge()

    async def converge(self) -> float | None:
        self.calls.clear()
        return await self.executor.converge(self.wanted)

    def wanted(self) -> NodeLayout:
        return parse_node_layout(self.kube.get(NODE_LAYOUTS, NODE))

    @property
    def applied(self) -> str:
        """What the node says of the layout that is applied."""
        annotations = self.kube.get(NODES, NODE)["metadata"].get("annotations", {})
        return str(annotations.get(APPLIED_ANNOTATION, ""))

    @property
    def status(self) -> Json:
        return dict(self.kube.get(NODE_LAYOUTS, NODE).get("status") or {})

    def condition(self, type_: str) -> str:
        conditions = {c["type"]: c for c in self.status["conditions"]}
        return str(conditions[type_]["reason"])

    def slow(self, resource: Resource, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
        """Patches of the kind wait for the event."""
        let, patch = asyncio.Event(), self.kube.patch

        async def wait(kind: Resource, *arguments: Any, **more: Any) -> Json:
            if kind is resource:
                await let.wait()
            return await patch(kind, *arguments, **more)

        monkeypatch.setattr(self.kube, "patch", wait)
        return let

    @contextmanager
    def refusing(
        self, resource: Resource, monkeypatch: pytest.MonkeyPatch, *, done: bool = False
    ) -> Iterator[None]:
        """Patches of the kind fail meanwhile; where they are `done`, only their answers do."""
        patch = self.kube.patch

        async def refuse(kind: Resource, *arguments: Any, **more: Any) -> Json:
            if kind is not resource:
                return await patch(kind, *arguments, **more)
            if done:
                await patch(kind, *arguments, **more)
            raise Unreachable("away")

        with monkeypatch.context() as patched:
            patched.setattr(self.kube, "patch", refuse)
            yield


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


async def test_slice_is_granted_then_offered_then_told(parts: Parts) -> None:
    await parts.apply({"10gb": 2})
    assert parts.calls == [*("expect 10", "grant 2", "offer 2", "write nodes", "write nodelayouts")]
    assert parts.enforcer.granted is not None
    assert parts.enforcer.granted.slices == parts.table.slices


async def test_slice_that_is_not_enforced_yet_is_not_offered(parts: Parts) -> None:
    parts.enforcer.starting = frozenset({GpuUuid(gpu(1))})
    await parts.apply({"10gb": 1})
    assert parts.table.slices == ()
    assert parts.condition("Applied") == "Applying"
    parts.enforcer.starting = frozenset()
    await parts.apply({"10gb": 1})
    assert len(parts.table.slices) == 1


async def test_withdrawal_asks_in_its_order(parts: Parts) -> None:
    """The scheduler, the kubelet, the holders; only then is the slice gone."""
    await parts.apply({"10gb": 1})
    await parts.apply({"80gb": 1})
    assert parts.calls == [
        *("expect 80", "grant 1", "offer 0", "write nodes", "hide 1", "look", "forget 1"),
        *("expect 80", "grant 1", "offer 1", "write nodes"),
    ]


async def test_slice_that_is_given_while_it_is_being_hidden_stays(parts: Parts) -> None:
    await parts.apply({"10gb": 1})
    (slice_,) = parts.table.slices
    parts.handoff.on_hide = lambda: parts.handoff.give(slice_, "ns/a")
    await parts.apply({"80gb": 1})
    assert parts.table.slices == (slice_,)
    assert parts.table.is_open(slice_)
    assert parts.condition("Applied") == "SliceInUse"


async def test_node_tells_which_layout_is_applied_and_the_layout_itself_follows(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parts.apply({"10gb": 1})
    again = await parts.apply({"10gb": 2})
    assert parts.calls[-1] == "write nodes"
    assert parts.applied == parts.wanted().version_tag
    assert parts.status["observedGeneration"] == 1
    assert again is not None
    assert 0 < again <= LATER_SECONDS
    monkeypatch.setattr(publisher, "monotonic", lambda: monotonic() + LATER_SECONDS)
    assert await parts.converge() != 0.0
    assert parts.calls[-1] == "write nodelayouts"
    assert parts.status["observedGeneration"] == 2


async def test_pod_that_takes_the_new_slice_at_once_is_told_by_the_same_write(parts: Parts) -> None:
    await parts.apply({"10gb": 1})
    await parts.apply({"10gb": 2})
    parts.handoff.give(parts.table.slices[1], "ns/a")
    await parts.converge()
    assert parts.calls.count("write nodelayouts") == 1
    assert parts.status["observedGeneration"] == 2
    states = [entry["state"] for entry in parts.status["gpus"][0]["slices"]]
    assert sorted(states) == ["Free", "Used"]


async def test_layout_that_is_applied_is_told_before_the_next_is_begun_with(parts: Parts) -> None:
    await parts.apply({"10gb": 1})
    await parts.apply({"10gb": 2})
    await parts.apply({"10gb": 3})
    assert parts.calls[0] == "write nodelayouts"
    assert parts.calls[-1] == "write nodes"
    assert parts.status["observedGeneration"] == 2


async def test_what_was_to_follow_is_dropped_with_its_layout(parts: Parts) -> None:
    await parts.apply({"10gb": 1})
    await parts.apply({"10gb": 2})
    parts.calls.clear()
    again = await parts.executor.converge(lambda: None)
    assert again is None or again > LATER_SECONDS  # not at once, and again, and again
    assert "write nodelayouts" not in parts.calls


async def test_nothing_of_a_layout_is_told_to_another_of_its_name(parts: Parts) -> None:
    for count in (1, 2, 3):
        await parts.apply({"10gb": count})
    parts.kube.api.remove(NODE_LAYOUTS, NODE)
    told: list[int] = []

    def wrote(plural: str, body: Json) -> None:
        if plural == "nodelayouts":
            told.append(body["status"]["observedGeneration"])

    parts.kube.on_write = wrote
    await parts.apply({"10gb": 3})
    assert told == [1]


async def test_what_was_to_follow_is_tried_again_when_it_could_not_be_written(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parts.apply({"10gb": 1})
    await parts.apply({"10gb": 2})
    with parts.refusing(NODE_LAYOUTS, monkeypatch), pytest.raises(Unreachable):
        await parts.apply({"10gb": 3})
    await parts.converge()
    assert parts.calls[0] == "write nodelayouts"
    assert parts.status["observedGeneration"] == 2


async def test_trouble_is_told_with_what_was_to_follow(parts: Parts) -> None:
    await parts.apply({"10gb": 1})
    await parts.apply({"10gb": 2})
    await parts.executor.publisher.write_trouble(parts.wanted(), ready("Stopping", "it ends"))
    assert parts.status["observedGeneration"] == 2
    assert (parts.condition("Ready"), parts.condition("Applied")) == ("Stopping", "Applied")
    assert len(parts.status["gpus"][0]["slices"]) == 2


async def test_layout_that_was_acknowledged_before_it_was_applied_is_told_at_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner goes by the node for layouts alone that are not acknowledged yet."""
    monkeypatch.setattr(withdrawal, "PODS_SECONDS", 0.0)
    monkeypatch.setattr(withdrawal, "SCHEDULER_SECONDS", 0.0)
    await parts.apply({"10gb": 1})
    pod = pod_manifest("p", 10)
    pod["spec"]["nodeName"] = NODE
    parts.kube.put(PODS, pod)
    await parts.apply({"80gb": 1})
    assert parts.condition("Applied") == "PodsPending"
    assert parts.status["observedGeneration"] == 2
    parts.kube.api.remove(PODS, "p", "default")
    monkeypatch.setattr(executor, "monotonic", lambda: monotonic() + 60)  # it is tried again
    await parts.converge()
    assert parts.calls[-2:] == ["write nodes", "write nodelayouts"]
    assert parts.condition("Applied") == "Applied"


async def test_what_an_agent_before_said_is_applied_goes_with_the_first_patch_of_the_next(
    parts: Parts, tmp_path: Path
) -> None:
    """It ended before the NodeLayout told the same, and the next has its slices to make anew."""
    await parts.apply({"80gb": 1})
    await parts.apply({"10gb": 2})
    assert parts.applied == parts.wanted().version_tag
    successor = Parts(tmp_path, parts.kube)
    successor.enforcer.starting = frozenset({GpuUuid(gpu(1))})
    successor.executor.publisher.node.saw(project_node(parts.kube.get(NODES, NODE)))
    await successor.converge()
    assert successor.applied == ""


async def test_gpu_that_turned_unhealthy_is_told_at_once(parts: Parts) -> None:
    await parts.apply({"10gb": 1})
    (before,) = parts.table.gpus.values()
    parts.table.put_gpus([replace(before, reason="GpuLost")])
    await parts.apply({})
    assert parts.status["gpus"][0]["healthy"] is False
    assert parts.status["observedGeneration"] == 2


async def test_what_is_so_again_is_told_where_the_answer_to_something_else_was_lost(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that was not answered may have been done, and then the layout shows it."""
    await parts.apply({})
    (before,) = parts.table.gpus.values()
    parts.table.put_gpus([replace(before, reason="GpuLost")])
    with parts.refusing(NODE_LAYOUTS, monkeypatch, done=True), pytest.raises(Unreachable):
        await parts.converge()
    assert parts.status["gpus"][0]["healthy"] is False
    parts.table.put_gpus([before])
    await parts.converge()
    assert parts.status["gpus"][0]["healthy"] is True


async def test_node_whose_slices_are_the_same_tells_nothing_new(parts: Parts) -> None:
    """The layout's status alone can, and it does not wait."""
    await parts.apply({"10gb": 1})
    told = parts.applied
    parts.kube.change(NODE_LAYOUTS, NODE, {"spec": {"gpus": []}})
    await parts.converge()
    assert parts.applied == told
    assert parts.status["observedGeneration"] == 2


async def test_layouts_status_does_not_wait_for_the_nodes(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    let = parts.slow(NODES, monkeypatch)
    applying = asyncio.create_task(parts.apply({"10gb": 1}))

    async def told() -> bool:
        return parts.kube.api.has(NODE_LAYOUTS, NODE) and bool(parts.status)

    await eventually(told, "the layout's status", every=0.002)
    assert parts.status["observedGeneration"] == 1
    assert not applying.done()
    let.set()
    await applying
    assert parts.kube.get(NODES, NODE)["status"]["allocatable"] == {"nvidia.com/gpu-10gb": "1"}


async def test_write_that_fails_does_not_stop_the_other_and_is_made_up_for(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with parts.refusing(NODES, monkeypatch), pytest.raises(Unreachable):
        await parts.apply({"10gb": 1})
    assert parts.status["observedGeneration"] == 1
    await parts.apply({"10gb": 1})
    assert parts.kube.get(NODES, NODE)["status"]["allocatable"] == {"nvidia.com/gpu-10gb": "1"}


async def test_released_is_told_after_the_nodes_annotations_are_gone(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent may be ended as soon as it is."""
    await parts.apply({"10gb": 1})
    annotations = "nos.nebuly.com/status-gpu-0-10gb-free"
    assert annotations in parts.kube.get(NODES, NODE)["metadata"]["annotations"]
    left: list[bool] = []

    def wrote(plural: str, body: Json) -> None:
        conditions = body["status"].get("conditions", []) if plural == "nodelayouts" else []
        if any(c["type"] == "Released" and c["status"] == "True" for c in conditions):
            found = parts.kube.get(NODES, NODE)["metadata"].get("annotations", {})
            left.append(annotations in found)

    parts.kube.on_write = wrote
    await parts.apply({"10gb": 2})
    assert parts.applied
    await parts.apply({}, release=True)
    assert left == [False]
    assert parts.applied == ""
