"""The agent as a whole, against a fake kubelet over gRPC and an API server in memory."""

import asyncio
from typing import Any

import pytest

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json
from tests.nodeagent.conftest import NODE, Machine, device, gpu, pod_manifest, resource
from tests.nodeagent.fake_kubelet import AdmissionError


async def test_layout_becomes_bindable_slices(machine: Machine) -> None:
    async with machine.agent():
        status = await machine.applied({"10gb": 2, "20gb": 1}, {"40gb": 1})
    assert [entry["capacityGB"] for entry in status["gpus"]] == [85, 85]
    assert machine.slices() == dict.fromkeys(
        [device(1, 10, 0), device(1, 10, 1), device(1, 20, 0), device(2, 40, 0)], "Free"
    )
    assert machine.allocatable() == {resource(10): "2", resource(20): "1", resource(40): "1"}
    assert machine.condition("Ready")["status"] == "True"
    assert machine.condition("Applied")["status"] == "True"


async def test_gpus_are_reported_before_anything_is_planned(machine: Machine) -> None:
    async with machine.agent():
        status = await machine.acknowledged(machine.lay_out())
    assert [(g["uuid"], g["index"], g["memoryMiB"]) for g in status["gpus"]] == [
        (gpu(1), 0, 81920),
        (gpu(2), 1, 81920),
    ]


async def test_agent_waits_for_its_layout(machine: Machine) -> None:
    async with machine.agent() as agent:
        await machine.until(lambda: machine.kubelet.running, "kubelet")
        assert not agent.done()
        await machine.applied({"10gb": 1})
    assert machine.slices() == {device(1, 10, 0): "Free"}


async def test_nothing_is_shown_before_the_kubelet_knows_it(machine: Machine) -> None:
    """A pod bound to a slice that the kubelet does not know runs without a device."""
    early: list[str] = []

    def check(plural: str, body: Json) -> None:
        shown = body.get("status", {}).get("allocatable", {})
        for name, count in shown.items():
            if int(count) > len(machine.kubelet.healthy(name)):
                early.append(f"{plural}: {name}={count}")

    machine.kube.on_write = check
    async with machine.agent():
        for layout in ({"10gb": 1}, {"10gb": 4}, {"10gb": 4, "5gb": 3}, {"20gb": 3}, {"10gb": 8}):
            await machine.applied(layout)
    assert early == []


async def test_one_write_of_the_node_then_one_of_the_layout(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.kube.writes.clear()
        await machine.applied({"10gb": 1, "20gb": 1})
    assert [plural for plural, _ in machine.kube.writes] == ["nodes", "nodelayouts"]


async def test_nos_annotations_follow_and_vanish_at_zero(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        annotations = machine.kube.get(NODES, NODE)["metadata"]["annotations"]
        assert annotations == {
            "nos.nebuly.com/status-gpu-0-10gb-used": "1",
            "nos.nebuly.com/status-gpu-0-10gb-free": "1",
        }
        machine.end_pod(key)
        await machine.applied({})
    assert machine.kube.get(NODES, NODE)["metadata"]["annotations"] == {}


async def test_used_slice_names_its_pod_until_the_pod_ends(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2})
        key = await machine.run_pod(10)
        await machine.until(
            lambda: machine.holders() == {device(1, 10, 0): (key, "main")}, "the holder"
        )
        machine.end_pod(key)
        await machine.until(lambda: set(machine.slices().values()) == {"Free"}, "freed")


async def test_pod_that_is_deleted_frees_its_slice(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.kubelet.forget(key)
        machine.kube.remove(PODS, key.partition("/")[2], "default")
        await machine.until(lambda: set(machine.slices().values()) == {"Free"}, "freed")


async def test_init_container_holds_its_slice_while_its_pod_lives(machine: Machine) -> None:
    """PodResources leaves it out (trap D); the checkpoint has it."""
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10, init=True)
        await machine.until(lambda: machine.holders() == {device(1, 10, 0): (key, "main")}, "it")
        await machine.applied({"20gb": 1})
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert machine.slices()[device(1, 10, 0)] == "Used"


async def test_used_slice_is_never_withdrawn_and_goes_when_its_pod_ends(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2})
        key = await machine.run_pod(10)
        status = await machine.applied({"80gb": 1})
        assert machine.condition("Applied")["status"] == "False"
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert [s["id"] for s in status["gpus"][0]["slices"]] == [device(1, 10, 0)]
        machine.end_pod(key)
        await machine.until(lambda: machine.slices() == {device(1, 80, 0): "Free"}, "the rest")
        await machine.until(lambda: machine.condition("Applied")["status"] == "True", "applied")


async def test_ids_keep_their_numbers(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 3})
        await machine.run_pod(10)
        second = await machine.run_pod(10)
        await machine.until(lambda: len(machine.holders()) == 2, "holders")
        machine.kubelet.forget("default/pod-1")
        machine.end_pod("default/pod-1")
        await machine.until(lambda: len(machine.holders()) == 1, "freed")
        await machine.applied({"10gb": 1})
        assert machine.slices() == {device(1, 10, 1): "Used"}
        assert machine.holders()[device(1, 10, 1)][0] == second
        await machine.applied({"10gb": 2})
        assert set(machine.slices()) == {device(1, 10, 0), device(1, 10, 1)}


async def test_gpu_that_is_not_listed_is_left_as_it_is(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"20gb": 1})
        await machine.applied({"30gb": 1})
    assert set(machine.slices()) == {device(1, 30, 0), device(2, 20, 0)}


@pytest.mark.parametrize(
    ("slices", "reason"),
    [({"86gb": 1}, "TooLarge"), ({"1gb": 49}, "TooLarge")],
)
async def test_impossible_layout_is_refused_whole(
    machine: Machine, slices: dict[str, int], reason: str
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.applied(slices)
        assert machine.condition("Applied")["reason"] == reason
    assert set(machine.slices()) == {device(1, 10, 0)}


async def test_layout_that_cannot_be_read_changes_nothing(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.acknowledged(machine.lay_out({"ten": 1}))
        assert machine.condition("Applied")["reason"] == "InvalidLayout"
        assert "ten" in machine.condition("Applied")["message"]
        await machine.applied({"10gb": 2})
    assert machine.allocatable() == {resource(10): "2"}


async def test_unknown_gpu_is_named(machine: Machine) -> None:
    machine.lay_out({"10gb": 1}, {}, {"10gb": 1})
    async with machine.agent():
        await machine.acknowledged(1)
    assert machine.condition("Applied")["reason"] == "UnknownGpu"
    assert gpu(3) in machine.condition("Applied")["message"]
    assert set(machine.slices()) == {device(1, 10, 0)}


async def test_release_waits_for_the_last_pod(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2}, {"40gb": 1})
        key = await machine.run_pod(10)
        await machine.acknowledged(machine.lay_out({"10gb": 2}, release=True))
        assert set(machine.slices()) == {device(1, 10, 0)}
        assert machine.condition("Released")["status"] == "False"
        machine.end_pod(key)
        await machine.until(lambda: machine.condition("Released")["status"] == "True", "released")
    assert machine.slices() == {}
    assert machine.allocatable() == {}
    assert machine.kube.get(NODES, NODE)["metadata"]["annotations"] == {}


# Withdrawing.


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
    assert log == [
        f"nodes {{'{small}': '0'}}",
        f"list {small} {{'{device(1, 10, 0)}': False}}",
        f"list {small} {{}}",
        f"list {large} {{'{device(1, 80, 0)}': True}}",
        f"nodes {{'{small}': '0', '{large}': '1'}}",
        "nodelayouts",
    ]
    assert len(kubelet.lists) == start + 3


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
        lists = [listed for name, listed in machine.kubelet.lists if name == resource(10)]
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


async def test_newer_layout_ends_the_wait(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.bind(10)
        machine.lay_out({"20gb": 1})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed")
        started = asyncio.get_running_loop().time()
        await machine.applied({"10gb": 1, "20gb": 1})
        assert asyncio.get_running_loop().time() - started < 1.0
        assert machine.condition("Applied")["status"] == "True"


async def test_gated_and_unschedulable_pods_are_not_waited_for(machine: Machine) -> None:
    gated = pod_manifest("gated", 10)
    gated["spec"]["schedulingGates"] = [{"name": "mpslice.io/carve"}]
    refused = pod_manifest("refused", 10)
    refused["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    ]
    machine.kube.put(PODS, gated)
    machine.kube.put(PODS, refused)
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.applied({"20gb": 1})
    assert set(machine.slices()) == {device(1, 20, 0)}


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


# Coming back.


async def test_restarted_agent_finds_every_slice(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2, "20gb": 1})
        key = await machine.run_pod(10)
        init = await machine.run_pod(20, init=True)
        await machine.until(lambda: len(machine.holders()) == 2, "holders")
    before = machine.slices()
    machine.kube.writes.clear()
    async with machine.agent():
        await machine.until(lambda: len(machine.kubelet.healthy(resource(10))) == 2, "10gb")
        await machine.applied({"10gb": 3, "20gb": 1})
        assert machine.slices() == {**before, device(1, 10, 2): "Free"}
        assert machine.holders() == {
            device(1, 10, 0): (key, "main"),
            device(1, 20, 0): (init, "main"),
        }


async def test_holders_survive_a_restart_without_the_checkpoint(machine: Machine) -> None:
    """The NodeLayout's status remembers an init container that PodResources does not list."""
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10, init=True)
        await machine.until(machine.holders, "holder")
    machine.kubelet.write_checkpoints = False
    (machine.kubelet.directory / "kubelet_internal_checkpoint").write_text("no checkpoint")
    async with machine.agent():
        await machine.applied({"20gb": 1})
        assert machine.holders() == {device(1, 10, 0): (key, "main")}
        machine.end_pod(key)
        await machine.until(lambda: machine.slices() == {device(1, 20, 0): "Free"}, "carved")


async def test_new_kubelet_hears_of_every_size_again(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1, "20gb": 1}, {"40gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.kube.writes.clear()
        await machine.kubelet.restart()
        await machine.until(
            lambda: sum(map(len, machine.kubelet.devices.values())) == 3, "registered again"
        )
        await machine.applied({"10gb": 2, "20gb": 1}, {"40gb": 1})
        assert machine.holders() == {device(1, 10, 0): (key, "main")}
        assert len(machine.slices()) == 4
        told = [body for plural, body in machine.kube.writes if plural == "nodelayouts"]
    assert machine.kubelet.overlaps == 0
    assert [body["status"]["summary"]["usedGB"] for body in told][-1] == 10
    assert all(c["status"] == "True" for body in told for c in body["status"]["conditions"])


async def test_node_status_that_the_kubelet_overwrote_is_written_again(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2})
        machine.kube.change(
            NODES,
            NODE,
            {"status": {"capacity": {resource(10): "0"}, "allocatable": {resource(10): "0"}}},
        )
        await machine.until(lambda: machine.allocatable() == {resource(10): "2"}, "corrected")


async def test_kubelet_away_is_told_and_waited_for(machine: Machine) -> None:
    async with machine.agent() as agent:
        await machine.applied({"10gb": 1})
        await machine.kubelet.stop()
        machine.lay_out({"10gb": 2})
        await machine.until(
            lambda: machine.condition("Ready").get("reason") == "KubeletUnavailable", "told", 15
        )
        assert set(machine.slices()) == {device(1, 10, 0)}
        await machine.kubelet.restart()
        await machine.acknowledged(2)
        assert machine.condition("Ready")["status"] == "True"
        assert not agent.done()


async def test_api_server_away_is_waited_for(machine: Machine) -> None:
    machine.kube.away = True
    async with machine.agent() as agent:
        machine.lay_out({"10gb": 1})
        machine.kube.away = False
        await machine.acknowledged(1)
        machine.kube.away = True
        machine.kube.cut_watches()
        machine.lay_out({"10gb": 2})
        machine.kube.away = False
        await machine.acknowledged(2)
        assert not agent.done()
    assert machine.allocatable() == {resource(10): "2"}


async def test_layout_that_is_made_anew_gets_its_status(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.kube.remove(NODE_LAYOUTS, NODE)
        await machine.applied({"10gb": 1})
        assert machine.slices() == {device(1, 10, 0): "Free"}


async def test_stopped_agent_leaves_nothing_to_be_bound(machine: Machine) -> None:
    async with machine.agent(farewell=True):
        await machine.applied({"10gb": 3})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
    assert machine.allocatable() == {resource(10): "1"}
    assert machine.condition("Ready")["reason"] == "Stopping"
    assert machine.condition("Applied")["status"] == "True"
    assert list(machine.kubelet.directory.glob("mpslice-*")) == []
    assert machine.kube.closed


# GPUs.


async def test_lost_gpu_is_told_to_all_and_comes_back(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        machine.write_gpus({})
        await machine.until(lambda: machine.allocatable() == {resource(10): "1"}, "lowered")
        await machine.until(lambda: machine.status()["gpus"][1]["healthy"] is False, "told")
        assert machine.status()["gpus"][1]["reason"] == "Lost"
        assert machine.kubelet.devices[resource(10)] == {
            device(1, 10, 0): True,
            device(2, 10, 0): False,
        }
        machine.write_gpus({}, {})
        await machine.until(lambda: machine.allocatable() == {resource(10): "2"}, "back")
        await machine.until(lambda: machine.status()["gpus"][1]["healthy"], "told again")


async def test_kubelet_is_told_the_numa_node_of_each_slice(machine: Machine) -> None:
    machine.write_gpus({"numaNode": 1}, {})
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert machine.kubelet.numa_nodes == {device(1, 10, 0): [1], device(2, 10, 0): []}


async def test_nothing_is_carved_on_an_unhealthy_gpu(machine: Machine) -> None:
    machine.write_gpus({}, {"healthy": False})
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert machine.condition("Applied")["reason"] == "GpuUnhealthy"
        assert set(machine.slices()) == {device(1, 10, 0)}
        machine.write_gpus({}, {})
        await machine.until(lambda: len(machine.slices()) == 2, "carved once it is healthy")


async def test_slices_of_a_gpu_that_is_gone_are_dropped_with_an_event(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
    machine.write_gpus({})
    machine.kubelet.devices.clear()  # the node was booted
    machine.kubelet.checkpoint()
    async with machine.agent():
        await machine.until(lambda: set(machine.slices()) == {device(1, 10, 0)}, "dropped")
        await machine.until(lambda: _events(machine, "GPUGone"), "the Event")
    assert gpu(2) in _events(machine, "GPUGone")[0]["message"]


def _events(machine: Machine, reason: str) -> list[Any]:
    objects = machine.kube._objects.items()
    return [o for (plural, _, _), o in objects if plural == "events" and o["reason"] == reason]


async def test_pod_that_the_kubelet_refused_gets_an_event(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.bind(10, name="late")
        machine.kube.change(
            PODS,
            "late",
            {"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError"}},
            "default",
        )
        await machine.until(lambda: _events(machine, "SliceRefused"), "the Event")
    assert "UnexpectedAdmissionError" in _events(machine, "SliceRefused")[0]["message"]
