"""A slice of a pod that is gone is free once none of its processes is left on the GPU."""

import asyncio

import pytest

from mpslice.gpus import DeviceId
from mpslice.kube.api import PODS
from nodeagent.gpus.processes import pod_uid_of
from nodeagent.hardware import GpuProcess
from nodeagent.slices.evidence import Holder
from nodeagent.slices.leftovers import remains
from nodeagent.slices.pods import project_pod
from tests.nodeagent.conftest import Machine, device, pod_manifest, resource
from tests.waiting import DEADLINE

SLICE = DeviceId.parse(device(1, 10, 0))
UID = "0d4a7a9c-9b1e-4d6c-8f2a-3c5e7b9d1f20"
OTHER = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("line", "uid"),
    [
        (f"0::/kubepods/besteffort/pod{UID}/3f2a", UID),
        (f"4:memory:/node/kubepods/pod{UID}/3f2a\n3:cpu:/", UID),
        (f"0::/a.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-3f2a.scope", UID),
        (f"0::/../../pod{UID}/3f2a", UID),
        ("0::/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/3f", "0123456789abcdef" * 2),
        ("0::/system.slice/nvidia-mps.service", ""),
        ("0::/user.slice/podman-1000.slice", ""),
        ("", ""),
    ],
)
def test_cgroup_names_the_pod(line: str, uid: str) -> None:
    assert pod_uid_of(line) == uid


def test_processes_of_the_pod_itself_remain() -> None:
    processes = [GpuProcess(1, UID), GpuProcess(2, OTHER), GpuProcess(3)]
    assert remains(Holder("ns/a", "main", UID), processes, set()) == (GpuProcess(1, UID),)


def test_pod_without_a_known_uid_may_be_any_that_does_not_live() -> None:
    processes = [GpuProcess(1, UID), GpuProcess(2, OTHER), GpuProcess(3)]
    assert remains(Holder("ns/a", "main"), processes, {OTHER}) == (GpuProcess(1, UID),)


@pytest.mark.parametrize(
    ("phase", "deleted", "state", "stopped"),
    [
        ("Running", False, "running", False),
        ("Running", False, "terminated", False),  # it is about to start again
        ("Running", True, "running", False),
        ("Running", True, "terminated", True),
        ("Succeeded", False, "terminated", True),
        ("Failed", False, "running", False),  # said by the pod collector, not by the kubelet
    ],
)
def test_pod_has_stopped_when_the_kubelet_saw_its_containers_end(
    phase: str, deleted: bool, state: str, stopped: bool
) -> None:
    manifest = pod_manifest("a", 10, phase=phase, containerStatuses=[{"state": {state: {}}}])
    manifest["metadata"]["uid"] = UID
    if deleted:
        manifest["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    facts = project_pod(manifest)
    assert facts is not None
    assert facts.stopped is stopped


async def force_delete(machine: Machine, key: str) -> None:
    """Its process runs on; the kubelet has its devices back."""
    name = key.partition("/")[2]
    uid = machine.kube.get(PODS, name, "default")["metadata"]["uid"]
    machine.processes = [GpuProcess(4711, uid)]
    machine.kubelet.forget(key)
    machine.kube.remove(PODS, name, "default")


async def test_slice_of_a_force_deleted_pod_is_used_until_its_process_is_gone(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        await force_delete(machine, key)
        await machine.applied({"80gb": 1})
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        assert machine.holders() == {device(1, 10, 0): (key, "main")}
        machine.processes = []
        await machine.until(lambda: machine.slices() == {device(1, 80, 0): "Free"}, "carved")


async def test_slice_stays_used_while_the_driver_does_not_tell(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.driver_tells = False
        await force_delete(machine, key)
        await machine.applied({"80gb": 1})
        assert machine.holders() == {device(1, 10, 0): (key, "main")}
        machine.processes = []
        machine.driver_tells = True
        await machine.until(lambda: machine.slices() == {device(1, 80, 0): "Free"}, "carved")


async def test_next_pod_on_such_a_slice_starts_when_the_process_is_gone(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        await force_delete(machine, key)
        second = asyncio.create_task(machine.run_pod(10, name="second"))
        await machine.until(
            lambda: machine.holders() == {device(1, 10, 0): ("default/second", "main")}, "held"
        )
        await asyncio.sleep(0.2)
        assert not second.done()
        machine.processes = []
        await asyncio.wait_for(second, DEADLINE)


async def test_free_slice_is_preferred_to_such_a_one(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 2})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        await force_delete(machine, key)
        await machine.run_pod(10, name="second")
        await machine.until(lambda: len(machine.holders()) == 2, "both")
        assert machine.holders()[device(1, 10, 1)] == ("default/second", "main")


async def test_agent_that_restarts_suspects_whoever_the_layout_names(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
    await force_delete(machine, key)
    async with machine.agent():
        await machine.applied({"80gb": 1})
        assert machine.condition("Applied")["reason"] == "SliceInUse"
        machine.processes = []
        await machine.until(lambda: machine.slices() == {device(1, 80, 0): "Free"}, "carved")
        assert machine.kubelet.healthy(resource(10)) == set()


async def test_start_on_such_a_slice_fails_in_words_when_the_process_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.kubelet.service.READY_SECONDS", 0.2)
    async with machine.agent():
        await machine.applied({"10gb": 1})
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        await force_delete(machine, key)
        with pytest.raises(Exception, match="is still used by processes of a pod that is gone"):
            await machine.run_pod(10, name="second")
