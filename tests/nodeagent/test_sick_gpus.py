"""GPUs that are lost, unhealthy or gone after a boot, as everybody hears of them."""

from tests.nodeagent.conftest import Machine, device, gpu, resource


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
        await machine.until(lambda: machine.events("GPUGone"), "the Event")
    assert gpu(2) in machine.events("GPUGone")[0]


async def test_gpu_that_is_added_is_reported_and_carved(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1}, {})
        machine.write_gpus({}, {}, {})
        await machine.until(lambda: len(machine.status()["gpus"]) == 3, "reported")
        await machine.applied({"10gb": 1}, {}, {"20gb": 1})
    assert set(machine.slices()) == {device(1, 10, 0), device(3, 20, 0)}


async def test_slice_in_use_stands_again_when_its_gpu_shows_after_the_agents_start(
    machine: Machine,
) -> None:
    """Else another would be carved over it, and its pod would be nobody's."""
    async with machine.agent():
        await machine.applied({}, {"10gb": 2})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "the holder")
    machine.write_gpus({})
    async with machine.agent():
        await machine.until(lambda: machine.events("GPUGone"), "it is missed")
        await machine.until(lambda: machine.slices() == {}, "nothing of it")
        machine.lay_out({}, {"85gb": 1})
        machine.write_gpus({}, {})
        await machine.until(
            lambda: machine.holders() == {device(2, 10, 0): (key, "main")}, "it stands again"
        )
        await machine.acknowledged(2)
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert set(machine.slices()) == {device(2, 10, 0)}
        machine.end_pod(key)
        await machine.until(lambda: machine.slices() == {device(2, 85, 0): "Free"}, "carved")
