"""A pod that no decision can be made with: it is set aside, and all others go on."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from planner import controller
from planner.decide import decide
from planner.quarantine import ASIDE, Quarantine, find_culprit
from planner.view import Decision, View
from tests.planner.leading import layout_object, leading, node_object, pod_object, until
from tests.planner.memory import Memory
from tests.planner.test_decide import LABEL, a_layout, a_node, a_pod, ungated
from tests.waiting import eventually

Decide = Callable[[View], Decision]


def failing(*names: str) -> Decide:
    """Decides, but for pods of these names, which it meets an error with while they are whole."""

    def with_errors(view: View) -> Decision:
        for pod in view.pods:
            if pod.name in names and not pod.problem:
                raise OverflowError("date value out of range")
        return decide(view)

    return with_errors


def a_view(*names: str, node: str = "") -> View:
    """A node with a free slice for each of the pods, and one of them on `node`."""
    pods = [replace(a_pod(name, 10), uid=name, resource_version="1") for name in names]
    if node:
        pods[0] = replace(pods[0], node=node, gates=())
    layout = a_layout(free={10: len(names)})
    return View((a_node(shows={10: len(names)}),), {"n1": layout}, tuple(pods), LABEL)


def test_culprit_is_found_among_many() -> None:
    view = a_view(*(f"p{n}" for n in range(100)))
    culprit = find_culprit(view, failing("p41"))
    assert culprit is not None
    assert culprit.name == "p41"


def test_nobody_is_blamed_where_no_pod_is_to_blame() -> None:
    def broken(view: View) -> Decision:
        raise RuntimeError("whatever there is")

    assert find_culprit(a_view("a"), broken) is None
    with pytest.raises(RuntimeError, match="whatever there is"):
        Quarantine().decide(a_view("a"), 0.0, broken)


def test_others_lose_their_gates_and_those_set_aside_are_named_with_the_error() -> None:
    quarantine = Quarantine()
    decision = quarantine.decide(a_view("a", "bad", "b", "worse"), 0.0, failing("bad", "worse"))
    assert ungated(decision) == ["a", "b"]
    assert [aside.pod.name for aside in quarantine.news] == ["bad", "worse"]
    assert quarantine.news[0].words == "OverflowError: date value out of range"


def test_pod_is_set_aside_until_it_changes_or_its_time_is_over() -> None:
    quarantine, view, asked = Quarantine(), a_view("a", "bad"), 0
    with_errors = failing("bad")

    def counted(view: View) -> Decision:
        nonlocal asked
        asked += 1
        return with_errors(view)

    quarantine.decide(view, 0.0, counted)
    asked = 0
    quarantine.decide(view, ASIDE - 1, counted)
    assert (asked, quarantine.news) == (1, ())
    changed = replace(view, pods=(view.pods[0], replace(view.pods[1], resource_version="2")))
    assert ungated(quarantine.decide(changed, ASIDE - 1, decide)) == ["a", "bad"]
    quarantine.decide(view, 0.0, counted)
    assert ungated(quarantine.decide(view, ASIDE, decide)) == ["a", "bad"]


def test_too_many_culprits_are_an_error_of_another_kind() -> None:
    names = [f"p{n}" for n in range(20)]
    with pytest.raises(OverflowError):
        Quarantine().decide(a_view(*names), 0.0, failing(*names))


def test_nothing_is_planned_on_the_node_of_a_running_pod_that_is_set_aside() -> None:
    """What it takes there is not known."""
    decision = Quarantine().decide(a_view("bad", "a", node="n1"), 0.0, failing("bad"))
    assert ungated(decision) == ["a"]
    assert [refusal.pod.name for refusal in decision.refused] == ["a"]
    assert "default/bad on it cannot be planned with" in decision.snapshot.set_aside["n1"]


async def test_leader_goes_on_and_tells_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "decide", failing("bad"))
    shows = {"nvidia.com/gpu-10gb": "2"}
    kube = Memory(
        nodes=[node_object("n1", shows)],
        nodelayouts=[layout_object(a_layout("n1", free={10: 2}))],
        pods=[
            pod_object("bad", 10, "2026-01-01T00:00:00Z"),
            pod_object("good", 10, "2026-01-02T00:00:00Z"),
        ],
    )
    async with leading(kube) as recorder:
        await eventually(until(lambda: ("good", None) in kube.seen), "its gate is taken away")
        await eventually(until(lambda: ("bad", "SetAside") in recorder.said), "it is told")
        assert ("bad", None) not in kube.seen
