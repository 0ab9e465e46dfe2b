"""GPUs and nodes that are somebody else's: left alone, and told of, and ours once they are free."""

import pytest

from mpslice.kube.api import NODES, PODS, Json
from nodeagent.gpus import foreign
from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Gpus, MpsControl
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as plugin_api
from nodeagent.simulation import SimulatedGpus, SimulatedMps
from tests.nodeagent.conftest import NODE, Machine, device, gpu, resource
from tests.nodeagent.fake_kubelet import Admitted
from tests.nodeagent.nvml.driver import FakeDriver

EXCLUDE = "mpslice.io/exclude-gpus"


def annotate(machine: Machine, value: str | None) -> None:
    machine.kube.change(NODES, NODE, {"metadata": {"annotations": {EXCLUDE: value}}})


# The annotation.


@pytest.mark.parametrize("value", ["1", gpu(2)])
async def test_excluded_gpu_is_left_alone(machine: Machine, value: str) -> None:
    annotate(machine, value)
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert set(machine.slices()) == {device(1, 10, 0)}
        assert machine.reasons() == [None, "Excluded"]
        ready = machine.condition("Ready")
        assert ready["status"] == "True"
        assert ready["message"].startswith("GPU 1 is left alone: the node's annotation")
        assert machine.condition("Applied")["reason"] == "GpuRefused"
        assert f"{gpu(2)} is left alone" in machine.condition("Applied")["message"]
        await machine.until(lambda: machine.events("GPURefused"), "the Event")
    assert EXCLUDE in machine.events("GPURefused")[0]


async def test_gpu_that_is_excluded_keeps_what_is_used_and_loses_the_rest(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2, "20gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        annotate(machine, "0")
        await machine.until(lambda: machine.slices() == {device(1, 10, 0): "Used"}, "withdrawn")
        assert machine.kubelet.healthy(resource(10)) == {device(1, 10, 0)}
        machine.end_pod(key)
        await machine.until(lambda: machine.slices() == {}, "all of it")
        annotate(machine, None)
        await machine.until(lambda: len(machine.slices()) == 3, "carved again")


async def test_annotation_that_names_no_gpu_is_told_of(machine: Machine) -> None:
    annotate(machine, "1,7")
    async with machine.agent():
        await machine.applied({"10gb": 1})
        await machine.until(lambda: machine.events("InvalidAnnotation"), "the Event")
    assert f"{EXCLUDE} names 7, which is not a GPU" in machine.events("InvalidAnnotation")[0]


# Other plugins.


async def test_gpu_of_another_plugin_is_left_alone_until_that_is_gone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "_AGAIN", 0.02)
    machine.kubelet.devices["nvidia.com/gpu"] = {gpu(2): True}
    machine.kube.change(NODES, NODE, {"status": {"allocatable": {"nvidia.com/gpu": "1"}}})
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert set(machine.slices()) == {device(1, 10, 0)}
        assert machine.reasons() == [None, "ForeignPlugin"]
        machine.kube.change(NODES, NODE, {"status": {"allocatable": {"nvidia.com/gpu": "0"}}})
        del machine.kubelet.devices["nvidia.com/gpu"]
        await machine.until(lambda: len(machine.slices()) == 2, "carved")
        await machine.until(lambda: machine.events("GPUHealthy"), "the Event")
    assert "as nvidia.com/gpu" in machine.events("GPURefused")[0]


async def test_plugin_that_comes_later_gets_the_gpu_but_for_what_is_used(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.kubelet.devices["nvidia.com/gpu"] = {gpu(1): True, gpu(2): True}
        machine.kube.change(NODES, NODE, {"status": {"allocatable": {"nvidia.com/gpu": "2"}}})
        await machine.until(lambda: machine.slices() == {device(1, 10, 0): "Used"}, "withdrawn")
        assert machine.reasons() == ["ForeignPlugin"] * 2


async def test_gpu_that_a_running_container_has_whole_is_somebody_elses(
    machine: Machine,
) -> None:
    """Its plugin may have gone before it."""
    machine.kubelet.admitted.append(
        Admitted("team/old", "uid-old", "main", "nvidia.com/gpu", [gpu(1)])
    )
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert machine.reasons() == ["ForeignPlugin", None]


# What the driver says.


async def test_mig_mode_and_old_gpus_are_left_alone(machine: Machine, driver: FakeDriver) -> None:
    driver.gpu(gpu(1), cc="9.0", mig=1)
    driver.gpu(gpu(2), cc="6.1")

    async def find_hardware() -> tuple[Gpus, MpsControl]:
        return await NvmlGpus.start(), SimulatedMps(SimulatedGpus(machine.file))

    machine.find_hardware = find_hardware  # type: ignore[method-assign]
    async with machine.agent():
        await machine.applied({"10gb": 1}, {"10gb": 1})
        assert machine.slices() == {}
        assert machine.reasons() == ["MigMode", "TooOld"]
        ready = machine.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "GpusRefused")
        assert "GPU 0 is left alone: it is in MIG mode" in ready["message"]
        await machine.until(lambda: len(machine.events("GPURefused")) == 2, "the Events")
    assert driver.compute_mode(gpu(1)) is None


# nos.


def plugin_of_nos() -> Json:
    containers = [{"name": "nvidia-device-plugin-ctr"}, {"name": "nvidia-mps-server"}]
    return {
        "metadata": {"name": "plugin-x7", "namespace": "nebuly-nvidia"},
        "spec": {
            "nodeName": NODE,
            "containers": containers,
            "volumes": [{"name": "plugins", "hostPath": {"path": "/var/lib/k/device-plugins"}}],
        },
        "status": {"phase": "Running"},
    }


def run_pod_of_nos(machine: Machine, name: str) -> str:
    """A pod to which nos's plugin has given a slice: under the same names as ours."""
    key = machine.bind(10, name=name)
    pod = machine.kube.change(
        PODS, name, {"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}}, "default"
    )
    answer = plugin_api.ContainerAllocateResponse(
        envs={"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=10G", "NVIDIA_VISIBLE_DEVICES": gpu(1)}
    )
    machine.kubelet.admitted.append(
        Admitted(
            key,
            pod["metadata"]["uid"],
            "main",
            resource(10),
            [device(1, 10, 0)],
            response=answer.SerializeToString(),
        )
    )
    machine.kubelet.devices[resource(10)] = {device(1, 10, n): True for n in range(2)}
    machine.kubelet.checkpoint()
    return key


async def test_node_of_nos_is_left_alone_until_its_last_pod_has_ended(machine: Machine) -> None:
    machine.kube.put(PODS, plugin_of_nos())
    key = run_pod_of_nos(machine, "theirs")
    async with machine.agent():
        await machine.acknowledged(machine.lay_out({"20gb": 1}, {"20gb": 1}))
        ready = machine.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "ForeignPartitioner")
        assert "nebuly-nvidia/plugin-x7" in ready["message"]
        assert "1 slice pod of nos" in ready["message"]
        assert machine.reasons() == ["ForeignPartitioner"] * 2
        assert machine.slices() == {}
        machine.kube.remove(PODS, "plugin-x7", "nebuly-nvidia")
        await machine.until(
            lambda: "left on this node" in machine.condition("Ready")["message"], "told"
        )
        assert machine.kubelet.registrations == []
        machine.end_pod(key)
        await machine.until(lambda: len(machine.slices()) == 2, "carved")
        assert machine.condition("Ready")["status"] == "True"
        await machine.until(lambda: machine.events("ForeignPartitionerGone"), "the Event")
    told = machine.events("ForeignPartitioner")
    assert ["plugin-x7" in message for message in told] == [True, False]


async def test_agent_that_starts_after_noss_plugin_takes_none_of_its_slices_over(
    machine: Machine,
) -> None:
    key = run_pod_of_nos(machine, "theirs")
    async with machine.agent():
        await machine.acknowledged(machine.lay_out({"20gb": 1}))
        assert machine.condition("Ready")["reason"] == "ForeignPartitioner"
        assert machine.slices() == {}
        assert machine.kubelet.registrations == []
        machine.end_pod(key)
        await machine.until(lambda: machine.slices() == {device(1, 20, 0): "Free"}, "carved")


async def test_nos_that_is_put_on_a_node_of_ours_gets_the_names_that_are_free(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1, "20gb": 1})
        key = await machine.run_pod(20)
        await machine.until(machine.holders, "holder")
        machine.kube.put(PODS, plugin_of_nos())
        await machine.until(lambda: machine.slices() == {device(1, 20, 0): "Used"}, "withdrawn")
        await machine.until(lambda: machine.kubelet.served() == {resource(20)}, "stepped aside")
        message = machine.condition("Ready")["message"]
        assert "0 slice pods of nos" in message
        machine.end_pod(key)
        await machine.until(lambda: machine.kubelet.served() == set(), "all of it")


async def test_released_node_of_nos_is_released(machine: Machine) -> None:
    machine.kube.put(PODS, plugin_of_nos())
    async with machine.agent():
        await machine.acknowledged(machine.lay_out(release=True))
        assert machine.condition("Released")["status"] == "True"
