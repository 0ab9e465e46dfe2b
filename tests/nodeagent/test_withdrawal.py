"""Free slices go in an order that neither a pod nor the kubelet is hurt by."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mpslice.kube import outage
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Query, Resource
from nodeagent.cluster import view
from nodeagent.controller import Controller
from nodeagent.layout import executor, withdrawal
from tests.nodeagent.conftest import NODE, Machine, device, pod_manifest, resource
from tests.nodeagent.fake_kubelet import AdmissionError


@pytest.fixture
def caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler is behind no outage, also not behind one from before the agent's start."""
    monkeypatch.setattr(outage, "LINGER", 0)
    monkeypatch.setattr(outage, "LONGEST", 0)


def in_hand(name: str, size: int, *, ahead: float = 0.0) -> Json:
    """A pod that a scheduler may be binding anywhere, created so many seconds from now."""
    pod = pod_manifest(name, size)
    pod["metadata"]["creationTimestamp"] = stamp(ahead)
    return pod


def stamp(ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")


def with_slices(machine: Machine, size: int) -> list[dict[str, bool]]:
    """The lists of a size that the kubelet was sent, but for empty ones: the size may be registered
    before it has a slice."""
    return [listed for name, listed in machine.kubelet.lists if name == resource(size) and listed]


async def test_withdrawing_goes_in_its_order(machine: Machine) -> None:
    """Node status down, Unhealthy, pods read, and only then a list without the id."""
    log: list[str] = []
    kubelet, kube = machine.kubelet, machine.kube
    async with machine.agent():
        await machine.applied({"10gb": 1})
        start = len(kubelet.lists)

        def wrote(plural: str, body: Json) -> None:
            amounts = body.get("status", {}).get("allocatable")
            log.append(f"{plural} {amounts}" if amounts else plural)

        def listed(name: str) -> None:
            log.append(f"list {name} {kubelet.lists[-1][1]}")

        kube.on_write, kubelet.on_list = wrote, listed
        await machine.applied({"80gb": 1})
    small, large = resource(10), resource(80)
    hidden = f"list {small} {{'{device(1, 10, 0)}': False}}"
    carved = f"list {large} {{'{device(1, 80, 0)}': True}}"
    shown = f"nodes {{'{small}': '0', '{large}': '1'}}"
    # Each size has a stream of its own, and the new one may be registered meanwhile.
    assert [entry for entry in log if not entry.startswith(f"list {large} ")] == [
        f"nodes {{'{small}': '0'}}",
        hidden,
        f"list {small} {{}}",
        shown,
        "nodelayouts",
    ]
    assert log.index(hidden) < log.index(carved) < log.index(shown)
    assert len([listed for name, listed in kubelet.lists[start:] if name == small or listed]) == 3


async def test_pod_that_is_bound_between_two_lists_of_pods_gets_the_slice(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caught_up: None
) -> None:
    """The list of the node's pods is from before it, the list of the others from after it."""
    list_page, bound, listed = machine.kube.list_page, list[str](), asyncio.Event()

    async def in_turn(resource: Resource, *, namespace: str | None = None, query: Query) -> Json:
        selector = query.get("fieldSelector", "")
        others = resource is PODS and selector.startswith("spec.nodeName=,")
        if others and not bound:
            await listed.wait()
            bound.append(machine.bind(10))
        page = await list_page(resource, namespace=namespace, query=query)
        if resource is PODS and not others:
            listed.set()
        return page

    async with machine.agent():
        await machine.applied({"10gb": 1})
        monkeypatch.setattr(machine.kube, "list_page", in_turn)
        generation = machine.lay_out({"20gb": 1})
        await machine.until(lambda: bound, "bound between the lists")
        await machine.admit(bound[0], 10)
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        lists = with_slices(machine, 10)
    assert lists == [{device(1, 10, 0): True}]


async def test_size_without_slices_keeps_an_empty_list(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.applied({})
        await machine.until(lambda: machine.kubelet.devices == {resource(10): {}}, "empty list")
        await machine.applied({"10gb": 1})
        assert machine.kubelet.registrations == [resource(10)]


async def test_pod_on_its_way_gets_the_slice_and_the_reason_is_told(machine: Machine) -> None:
    """It was bound before the node's status went down; with its slice Unhealthy it would fail."""
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = machine.bind(10)
        generation = machine.lay_out({"20gb": 1})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed")
        await machine.admit(key, 10)
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert machine.slices()[device(1, 10, 0)] == "Used"
        assert machine.kubelet.healthy(resource(10)) == {device(1, 10, 0)}
        assert machine.allocatable()[resource(10)] == "1"
        lists = with_slices(machine, 10)
    assert lists == [{device(1, 10, 0): True}]


async def test_slice_that_the_kubelet_had_chosen_before_it_was_unhealthy_stays(
    machine: Machine,
) -> None:
    """Trap A: leaving it out now would crash the kubelet when its Allocate returns."""
    async with machine.agent():
        await machine.applied({"10gb": 1})
        bound: list[str] = []

        def unhealthy(name: str) -> None:
            if not bound and machine.kubelet.lists[-1][1] == {device(1, 10, 0): False}:
                bound.append(machine.bind(10))

        machine.kubelet.on_list = unhealthy
        generation = machine.lay_out({"20gb": 1})
        await machine.until(lambda: bound, "Unhealthy, and bound by an earlier decision")
        await machine.admit(bound[0], 10, choice=device(1, 10, 0))
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert machine.slices()[device(1, 10, 0)] == "Used"
        assert machine.kubelet.healthy(resource(10)) == {device(1, 10, 0)}
    assert machine.kubelet.panics == []


async def test_pod_that_does_not_arrive_is_waited_for_and_tried_again_in_peace(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.bind(10)
        await machine.acknowledged(machine.lay_out({"20gb": 1}))
        assert machine.condition("Applied")["reason"] == "PodsPending"
        assert machine.kubelet.healthy(resource(10)) == {device(1, 10, 0)}
        machine.end_pod("default/pod-1", "Failed")
        await machine.until(lambda: machine.slices() == {device(1, 20, 0): "Free"}, "carved")


@pytest.mark.parametrize("ahead", [3600, -3600])
async def test_pods_age_by_the_clock_of_the_api_server(
    machine: Machine, ahead: int, caught_up: None
) -> None:
    """The machine's own may be wrong by any time: by this one they would be too old, or new."""
    fields = [{"manager": "kubelet", "subresource": "status", "time": stamp(ahead)}]
    machine.kube.change(NODES, NODE, {"metadata": {"managedFields": fields}})
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.kube.put(PODS, in_hand("old", 10, ahead=ahead - 120))
        await machine.acknowledged(machine.lay_out({"20gb": 1}))
        assert set(machine.slices()) == {device(1, 20, 0)}
        machine.kube.put(PODS, in_hand("new", 20, ahead=ahead))
        await machine.acknowledged(machine.lay_out({"30gb": 1}))
        assert machine.condition("Applied")["reason"] == "PodsPending"


async def test_pod_on_its_way_is_waited_for_once_for_all_slices_of_its_size(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 8})
        machine.kube.put(PODS, in_hand("elsewhere", 10))
        closed: list[str] = []

        def wrote(plural: str, body: Json) -> None:
            amount = body.get("status", {}).get("allocatable", {}).get(resource(10), "8")
            if plural == "nodes" and amount != "8":
                closed.append(amount)

        machine.kube.on_write = wrote
        await machine.acknowledged(machine.lay_out({"10gb": 7}))
        assert machine.condition("Applied")["reason"] == "PodsPending"
    assert closed == ["7"]


async def test_pod_on_its_way_keeps_no_slice_of_another_size(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1, "40gb": 1})
        machine.kube.put(PODS, in_hand("elsewhere", 10))
        await machine.acknowledged(machine.lay_out({"70gb": 1}))
        assert set(machine.slices()) == {device(1, 10, 0), device(1, 70, 0)}
        assert "1 of 10gb" in machine.condition("Applied")["message"]


async def test_withdrawal_is_tried_again_though_the_report_took_its_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "RETRY_PENDING_SECONDS", 0.05)
    patch = machine.kube.patch

    async def slow(resource: Resource, *arguments: Any, **more: Any) -> Json:
        if resource is NODE_LAYOUTS:
            await asyncio.sleep(0.2)
        return await patch(resource, *arguments, **more)

    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.kube.put(PODS, in_hand("elsewhere", 10))
        monkeypatch.setattr(machine.kube, "patch", slow)
        await machine.acknowledged(machine.lay_out({}))
        machine.kube.change(PODS, "elsewhere", {"spec": {"nodeName": "n2"}}, "default")
        await machine.until(lambda: machine.slices() == {}, "withdrawn")


async def test_newer_layout_ends_the_wait(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawal, "PODS_SECONDS", 3600)
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.bind(10)
        machine.lay_out({"20gb": 1})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed")
        await machine.applied({"10gb": 1, "20gb": 1})
        assert machine.condition("Applied")["status"] == "True"


def unschedulable(name: str, size: int) -> Json:
    """A pod that a scheduler has found no place for so far."""
    pod = pod_manifest(name, size)
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    ]
    return pod


async def test_gated_pods_are_not_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawal, "PODS_SECONDS", 3600)
    gated = pod_manifest("gated", 10)
    gated["spec"]["schedulingGates"] = [{"name": "mpslice.io/carve"}]
    machine.kube.put(PODS, gated)
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.applied({"20gb": 1})
    assert set(machine.slices()) == {device(1, 20, 0)}


async def test_unschedulable_pod_gets_the_slice_that_the_scheduler_still_saw(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caught_up: None
) -> None:
    """The scheduler tries again as soon as there is a slice, and may bind by that old status."""
    monkeypatch.setattr(withdrawal, "SCHEDULER_SECONDS", 3600)
    machine.kube.put(PODS, unschedulable("waits", 10))
    async with machine.agent():
        await machine.applied({"10gb": 1})
        generation = machine.lay_out({"20gb": 1})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed")
        machine.kube.change(PODS, "waits", {"spec": {"nodeName": NODE}}, "default")
        await machine.admit("default/waits", 10)
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert machine.slices()[device(1, 10, 0)] == "Used"


async def test_slice_is_not_touched_while_a_scheduler_that_is_behind_may_choose_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler may have lost the API server before this agent started, and follow nodes much
    later. To close the slice would be of no use: it would not see it."""
    monkeypatch.setattr(withdrawal, "SCHEDULER_SECONDS", 0)
    machine.kube.put(PODS, unschedulable("waits", 10))
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.acknowledged(machine.lay_out({"20gb": 1}))
        assert machine.condition("Applied")["reason"] == "PodsPending"
        assert machine.allocatable()[resource(10)] == "1"
        machine.kube.change(PODS, "waits", {"spec": {"nodeName": NODE}}, "default")
        await machine.admit("default/waits", 10)
        await machine.until(lambda: machine.slices()[device(1, 10, 0)] == "Used", "used")
        lists = with_slices(machine, 10)
    assert lists == [{device(1, 10, 0): True}]


async def test_slice_goes_once_the_scheduler_has_caught_up_with_an_outage(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "RETRY_BEHIND_SECONDS", 0.05)
    monkeypatch.setattr(view, "with_start", lambda _started, newest: newest)
    machine.kube.put(PODS, unschedulable("waits", 10))
    async with machine.agent():
        await machine.applied({"10gb": 1})
        monkeypatch.setattr(outage, "LINGER", 3600)
        machine.kube.cut_watches()
        await machine.acknowledged(machine.lay_out({"20gb": 1}))
        assert machine.condition("Applied")["reason"] == "PodsPending"
        monkeypatch.setattr(outage, "LINGER", 0)
        monkeypatch.setattr(outage, "LONGEST", 0)
        await machine.until(lambda: set(machine.slices()) == {device(1, 20, 0)}, "withdrawn")


async def test_layouts_that_follow_one_another_closely_do_not_keep_a_slice(
    machine: Machine, caught_up: None
) -> None:
    """Each of them wants the slice gone; so the wait for pods goes on."""
    machine.kube.put(PODS, unschedulable("waits", 10))
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"40gb": 1})
        number = 0

        def is_withdrawn() -> bool:
            nonlocal number
            number += 1
            machine.lay_out({"20gb": 1}, {"40gb": 1, "5gb": 1 + number % 4})
            return device(1, 10, 0) not in machine.slices()

        await machine.until(is_withdrawn, "withdrawn")


async def test_unschedulable_pod_is_not_waited_for_once_the_scheduler_has_seen_the_status(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caught_up: None
) -> None:
    monkeypatch.setattr(withdrawal, "PODS_SECONDS", 3600)
    machine.kube.put(PODS, unschedulable("waits", 10))
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.applied({"20gb": 1})
    assert set(machine.slices()) == {device(1, 20, 0)}


async def test_slice_that_the_kubelet_offers_again_is_taken_back_and_schedulers_get_more_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caught_up: None
) -> None:
    """The kubelet writes the node's status every ten seconds, and knows the slice until the end."""
    monkeypatch.setattr(withdrawal, "SCHEDULER_SECONDS", 3600)
    machine.kube.put(PODS, unschedulable("waits", 10))
    async with machine.agent():
        await machine.applied({"10gb": 1})
        generation = machine.lay_out({"20gb": 1})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed")
        offered = {resource(10): "1"}
        machine.kube.change(NODES, NODE, {"status": {"allocatable": offered, "capacity": offered}})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed again")
        assert machine.kubelet.healthy(resource(10)) == {device(1, 10, 0)}
        machine.kube.change(PODS, "waits", {"spec": {"nodeName": NODE}}, "default")
        await machine.admit("default/waits", 10)
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["reason"] == "SliceInUse"


@pytest.mark.parametrize("watched", [True, False])
async def test_hidden_slice_that_the_kubelet_has_offered_is_there_for_the_pod_that_is_bound_to_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """The kubelet's write was under way while the slice was hidden; the watch may be late, too."""
    if not watched:
        monkeypatch.setattr(Controller, "_node_changed", lambda *_: None)
    lists: list[bool] = []

    def listed(name: str) -> None:
        health = machine.kubelet.lists[-1][1].get(device(1, 10, 0))
        if name != resource(10) or health is None:
            return
        lists.append(health)
        if lists == [False]:
            offered = {resource(10): "1"}
            machine.kube.change(NODES, NODE, {"status": {"allocatable": offered}})
            machine.kube.put(PODS, unschedulable("waits", 10))

    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.kubelet.on_list = listed
        generation = machine.lay_out({"20gb": 1})
        await machine.until(lambda: lists == [False, True], "healthy again")
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed again")
        machine.kube.change(PODS, "waits", {"spec": {"nodeName": NODE}}, "default")
        await machine.admit("default/waits", 10)
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["reason"] == "SliceInUse"


async def test_allocate_of_a_withdrawn_slice_is_an_error(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.applied({})
        with pytest.raises(AdmissionError, match="was withdrawn"):
            await machine.kubelet.allocate_again(resource(10), device(1, 10, 0))


async def test_withdrawal_racing_allocates_never_brings_the_kubelet_down(machine: Machine) -> None:
    async with machine.agent():
        for turn in range(30):
            await machine.applied({"10gb": 2})
            key = machine.bind(10)
            admission = asyncio.create_task(machine.admit(key, 10))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            generation = machine.lay_out({"20gb": 4})
            failed = (await asyncio.gather(admission, return_exceptions=True))[0]
            if isinstance(failed, AdmissionError):
                machine.end_pod(key, "Failed")
            await machine.acknowledged(generation)
            held = [id_ for entry in machine.kubelet.admitted for id_ in entry.ids]
            assert set(held) <= set(machine.slices()), turn
            if not isinstance(failed, AdmissionError):
                machine.end_pod(key)
            await machine.until(lambda: len(machine.slices()) == 4, "all 20gb")
    assert machine.kubelet.panics == []
