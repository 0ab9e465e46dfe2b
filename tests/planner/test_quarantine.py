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
    assert find_culprit(a_view("a"), decide) is None


def test_pod_is_set_aside_with_all_like_it_until_its_time_is_over() -> None:
    """A workload's replicas differ in name, age and status alone, and meet the same error."""
    quarantine, view = Quarantine(), a_view("a", "b", "bad")
    alike = replace(view.pods[2], name="bad-2", uid="bad-2", progress="{}", resource_version="7")
    view = replace(view, pods=(*view.pods[:2], replace(view.pods[2], progress="{}"), alike))
    quarantine.set_aside(view.pods[2], OverflowError("date value out of range"), 0.0)
    assert [pod.name for pod in quarantine.trusted(view, ASIDE - 1).pods] == ["a", "b"]
    changed = replace(view, pods=(replace(alike, resource_version="8", unschedulable="CPU"),))
    assert quarantine.trusted(changed, ASIDE - 1).pods == ()
    assert quarantine.trusted(view, ASIDE).pods == view.pods


def test_nothing_is_planned_on_the_node_of_a_running_pod_that_is_set_aside() -> None:
    """What it takes there is not known."""
    quarantine, view = Quarantine(), a_view("bad", "a", node="n1")
    bad = replace(view.pods[0], labels={"app": "bad"})
    view = replace(view, pods=(bad, view.pods[1]))
    quarantine.set_aside(bad, OverflowError("too large"), 0.0)
    trusted = quarantine.trusted(view, 1.0)
    decision = decide(trusted)
    assert ungated(decision) == ["a"]
    assert [refusal.pod.name for refusal in decision.refused] == ["a"]
    assert "default/bad on it cannot be planned with (Over" in decision.snapshot.set_aside["n1"]
    assert find_culprit(trusted, failing_on_problems) is None  # nobody is set aside twice


def failing_on_problems(view: View) -> Decision:
    if any(pod.problem for pod in view.pods):
        raise RuntimeError("still")
    return decide(view)


async def test_leader_goes_on_whatever_their_number_and_tells_each_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"bad-{n}" for n in range(20)]
    monkeypatch.setattr(controller, "decide", failing(*names))
    created = "2026-01-01T00:00:00Z"
    bad = [pod_object(name, 10, created, priority=n) for n, name in enumerate(names, 1)]
    kube = Memory(
        nodes=[node_object("n1", {"nvidia.com/gpu-10gb": "2"})],
        nodelayouts=[layout_object(a_layout("n1", free={10: 2}))],
        pods=[*bad, pod_object("good", 10, "2026-01-02T00:00:00Z")],
    )
    async with leading(kube) as recorder:
        await eventually(until(lambda: ("good", None) in kube.seen), "its gate is taken away")
        told = {name for name, reason in recorder.said if reason == "SetAside"}
        assert told == {*names}
        assert not {(name, None) for name in names} & {*kube.seen}
