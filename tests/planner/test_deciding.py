"""When the controller decides: only where a change could alter something, and without holding up
what else it has to do.
"""

import asyncio
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mpslice.kube.api import NAMESPACES, PODS, Json
from planner import controller
from planner.decide import decide
from planner.view import Decision, View
from planner.words import storyteller
from tests.planner.leading import (
    count_decisions,
    layout_object,
    leading,
    node_object,
    pod_object,
    until,
)
from tests.planner.memory import Memory
from tests.planner.test_decide import LABEL, a_layout, a_node, a_pod
from tests.waiting import DEADLINE, eventually


async def test_planner_decides_nothing_while_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided = count_decisions(monkeypatch)
    kube = Memory(
        nodes=[node_object("n1", {})],
        nodelayouts=[layout_object(a_layout("n1"))],
        pods=[pod_object("huge", 500, "2026-01-01T00:00:00Z", gated=False)],
    )
    async with leading(kube) as recorder:
        await eventually(until(lambda: bool(recorder.said)), "the first decision is told")
        before = decided()
        await asyncio.sleep(1.5)  # longer than anything that it looks at again by itself
        assert decided() == before


async def test_pods_that_wait_on_are_told_again_without_another_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided = count_decisions(monkeypatch)
    monkeypatch.setattr(storyteller, "REPEAT", 0.1)
    pods = [pod_object(name, 500, "2026-01-01T00:00:00Z", gated=False) for name in ("a", "b")]
    kube = Memory(
        nodes=[node_object("n1", {})], nodelayouts=[layout_object(a_layout("n1"))], pods=pods
    )
    async with leading(kube) as recorder:

        def told(name: str) -> int:
            return recorder.said.count((name, "SliceUnavailable"))

        await eventually(until(lambda: min(told("a"), told("b")) > 1), "both are told again")
        before = decided()
        often = told("a") + 2
        await eventually(until(lambda: told("a") >= often), "and again")
        assert decided() == before
        kube.show(PODS, pods[1], "DELETED")
        await eventually(
            until(lambda: decided() > before), "it is decided without the one that left"
        )
        last, often = told("b"), told("a") + 3
        await eventually(until(lambda: told("a") >= often), "the other is told again")
        assert told("b") == last


def ordinary(name: str, node: str = "n1", phase: str = "Running", cpu: str = "1") -> Json:
    """A pod without slices."""
    pod = pod_object(name, 1, "2026-01-01T00:00:00Z", gated=False, nodeName=node)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    pod["status"] = {"phase": phase}
    return pod


@pytest.mark.parametrize(
    ("size", "cpu", "event", "matters"),
    [
        (500, "1", ordinary("web", phase="Succeeded"), False),
        (10, "32", ordinary("web", phase="Succeeded"), True),
        (10, "32", ordinary("elsewhere", node="unlabelled"), False),
        (10, "1", ordinary("more"), True),
        (500, "1", ordinary("more"), False),
    ],
    ids=["no GPU is so large", "CPU comes free", "another node", "CPU is taken", "not wanted"],
)
async def test_pods_without_slices_are_decided_upon_only_where_they_could_alter_something(
    size: int, cpu: str, event: Json, matters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = count_decisions(monkeypatch)
    waiting = pod_object("waiting", size, "2026-01-01T00:00:00Z", gated=False)
    waiting["spec"]["containers"][0]["resources"]["requests"] = {"cpu": cpu}
    kube = Memory(
        nodes=[node_object("n1", {})],
        nodelayouts=[layout_object(a_layout("n1"))],
        pods=[ordinary("web"), waiting],
    )
    async with leading(kube):
        await eventually(until(lambda: ("waiting", "status") in kube.seen), "it is told")
        await asyncio.sleep(0.1)  # the answer has come
        before = decided()
        kube.show(PODS, event, "MODIFIED")
        if not matters:
            await asyncio.sleep(0.3)
            assert decided() == before
            kube.show(NAMESPACES, {"metadata": {"name": "last", "labels": {"a": "b"}}})
        await eventually(until(lambda: decided() > before), "what matters is decided upon")


async def test_leader_does_all_else_while_it_decides_on_many_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above all it renews its lease, which it would lose every time."""
    begun, go_on = threading.Event(), threading.Event()

    def deciding(view: View) -> Decision:
        begun.set()
        assert go_on.wait(DEADLINE)
        return decide(view)

    monkeypatch.setattr(controller, "decide", deciding)
    pods = [pod_object(f"p{i}", 500, "2026-01-01T00:00:00Z", gated=False) for i in range(201)]
    kube = Memory(nodes=[node_object("n1", {})], nodelayouts=[], pods=pods)
    async with leading(kube) as recorder:
        await eventually(until(begun.is_set), "it decides")
        assert not recorder.said
        go_on.set()
        await eventually(until(lambda: len(recorder.said) >= len(pods)), "all are told")


async def test_ready_gates_go_while_a_decision_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the limit of writes lets go at once, and each decision takes a second."""
    deciding, names = 0, [f"p{number:03}" for number in range(500)]

    def slowly(view: View) -> Decision:
        nonlocal deciding
        deciding += 1
        if deciding > 1:
            time.sleep(1.0)
        return decide(view)

    monkeypatch.setattr(controller, "decide", slowly)
    nodes = [f"n{number:02}" for number in range(11)]
    shows = {"nvidia.com/gpu-1gb": "48", "cpu": "1000", "pods": "500"}
    kube = Memory(
        nodes=[node_object(name, shows) for name in nodes],
        nodelayouts=[layout_object(a_layout(name, free={1: 48})) for name in nodes],
        pods=[pod_object(name, 1, "2026-01-01T00:00:00Z") for name in names],
    )
    async with leading(kube):
        gone = {(name, None) for name in names}
        await eventually(until(lambda: gone <= set(kube.seen)), "every gate is gone")
    assert deciding <= 4


def test_pod_that_only_its_nodes_layout_shows_is_seen_there_at_every_decision() -> None:
    """Its watch is behind. Its room would else be another's at every second decision."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    taker = replace(a_pod("taker", 80, gated=False), created="2025-12-31T23:59:00Z")
    other = replace(a_pod("other", 80), created="2025-12-31T23:59:30Z")
    free, used = a_layout(free={80: 1}), a_layout(used=[(80, "default/taker")])
    view = View((a_node(shows={80: 1}),), {"n1": free}, (taker, other), LABEL, now=now)
    decision = decide(view)
    assert [place.pod.name for place in decision.plan.placements] == ["taker"]
    for _ in range(3):
        shown = replace(view, layouts={"n1": used}, planned=decision.planned)
        decision = decide(shown)
        assert [place.pod.name for place in decision.plan.placements] == []
        assert decision.planned[taker.uid].node == "n1"
