"""A layout becomes slices, whole, or the reason why not is told.

The agent against a fake kubelet and an API server in memory.
"""

import pytest

from mpslice.kube.api import NODES, Json
from tests.nodeagent.conftest import NODE, Machine, device, gpu, resource


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


async def test_what_stands_is_served_under_a_layout_that_cannot_be_read(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
    machine.kubelet.devices.clear()  # the node was booted
    machine.kubelet.checkpoint()
    machine.kube.change(NODES, NODE, {"status": {"allocatable": {resource(10): "0"}}})
    machine.lay_out({"ten": 1})
    async with machine.agent():
        await machine.until(lambda: machine.allocatable() == {resource(10): "1"}, "bindable")
        assert machine.kubelet.healthy(resource(10)) == {device(1, 10, 0)}
        await machine.acknowledged(2)


async def test_withdrawal_that_a_bad_layout_ends_leaves_its_slice_bindable(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.bind(10)
        machine.lay_out({"80gb": 1})
        await machine.until(lambda: resource(10) not in machine.allocatable(), "closed")
        await machine.acknowledged(machine.lay_out({"ten": 1}))
        assert machine.allocatable() == {resource(10): "1"}


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
    assert machine.kube.get(NODES, NODE)["metadata"].get("annotations") is None
