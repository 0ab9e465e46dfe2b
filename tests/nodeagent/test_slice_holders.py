"""Who holds which slice, as pods come, end and are refused."""

import pytest

from mpslice.kube.api import NODES, PODS
from mpslice.nodelayout import APPLIED_ANNOTATION
from nodeagent.cluster import node
from tests.nodeagent.conftest import NODE, Machine, device


def annotations(machine: Machine) -> dict[str, str]:
    """nos's."""
    every = machine.kube.get(NODES, NODE)["metadata"].get("annotations", {})
    return {name: value for name, value in every.items() if name != APPLIED_ANNOTATION}


async def test_nos_annotations_follow_and_vanish_at_zero(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "ANNOTATIONS_SECONDS", 0.05)
    async with machine.agent():
        await machine.applied({"10gb": 2})
        key = await machine.run_pod(10)
        both = {
            "nos.nebuly.com/status-gpu-0-10gb-used": "1",
            "nos.nebuly.com/status-gpu-0-10gb-free": "1",
        }
        await machine.until(lambda: annotations(machine) == both, "a used slice is counted")
        machine.end_pod(key)
        await machine.applied({})
    assert annotations(machine) == {}


async def test_a_pods_life_on_a_slice_that_stands_costs_the_node_no_write(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
        machine.kube.writes.clear()
        key = await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.end_pod(key)
        await machine.until(lambda: set(machine.slices().values()) == {"Free"}, "freed")
        assert [plural for plural, _ in machine.kube.writes] == ["nodelayouts"] * 2


async def test_nos_annotations_are_right_when_the_agent_goes(machine: Machine) -> None:
    async with machine.agent(farewell=True):
        await machine.applied({"10gb": 1})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
    assert annotations(machine) == {"nos.nebuly.com/status-gpu-0-10gb-used": "1"}


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
        await machine.until(lambda: machine.events("SliceRefused"), "the Event")
    assert "UnexpectedAdmissionError" in machine.events("SliceRefused")[0]
