"""The agent, the kubelet and the API server each go away and come back."""

import asyncio
from contextlib import suppress

import pytest

from mpslice.kube.api import NODE_LAYOUTS, NODES, Json, Query, Resource
from tests.nodeagent.conftest import NODE, Machine, device, resource
from tests.nodeagent.fake_kubelet import AdmissionError


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


async def test_withdrawal_shows_no_slice_before_the_kubelet_knows_it(machine: Machine) -> None:
    """As after a restart with no checkpoint, when a withdrawal is due: a pod bound to a slice that
    the kubelet does not know would run without a device."""
    async with machine.agent():
        await machine.applied({"10gb": 3, "20gb": 2})
    machine.kubelet.write_checkpoints = False
    (machine.kubelet.directory / "kubelet_internal_checkpoint").unlink()
    await machine.kubelet.restart()
    zero = {resource(10): "0", resource(20): "0"}
    machine.kube.change(NODES, NODE, {"status": {"capacity": zero, "allocatable": zero}})
    generation = machine.lay_out({"10gb": 3, "20gb": 1})
    early: list[str] = []

    def wrote(plural: str, body: Json) -> None:
        for name, amount in body.get("status", {}).get("allocatable", {}).items():
            if plural == "nodes" and int(amount) > len(machine.kubelet.devices.get(name, ())):
                early.append(f"{amount} of {name}")

    machine.kube.on_write = wrote
    async with machine.agent():
        await machine.acknowledged(generation)
    assert early == []


async def test_report_that_somebody_else_overwrote_is_written_again(machine: Machine) -> None:
    """As an agent before us does that ends late; a node that is not Ready is not planned on."""
    async with machine.agent():
        await machine.applied({"10gb": 1})
        status = machine.status()
        stopping = {
            "type": "Ready",
            "status": "False",
            "reason": "Stopping",
            "message": "the agent is being stopped",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        others = [c for c in status["conditions"] if c["type"] != "Ready"]
        changed = {"status": {"conditions": [stopping, *others]}}
        machine.kube.change(NODE_LAYOUTS, NODE, changed)
        await machine.until(lambda: machine.condition("Ready")["status"] == "True", "Ready again")


async def test_kubelet_away_is_told_and_waited_for(machine: Machine) -> None:
    async with machine.agent() as agent:
        await machine.applied({"10gb": 1})
        await machine.kubelet.stop()
        machine.lay_out({"10gb": 2})
        await machine.until(
            lambda: machine.condition("Ready").get("reason") == "KubeletUnavailable", "told"
        )
        assert set(machine.slices()) == {device(1, 10, 0)}
        await machine.kubelet.restart()
        await machine.acknowledged(2)
        assert machine.condition("Ready")["status"] == "True"
        assert not agent.done()


async def test_gpu_that_is_well_again_is_told_to_the_kubelet_without_an_api_server(
    machine: Machine,
) -> None:
    async with machine.agent():
        await machine.applied({"10gb": 1})
    machine.write_gpus({"healthy": False}, {})
    machine.kube.away = True
    kubelet, ill, well = machine.kubelet, {device(1, 10, 0): False}, {device(1, 10, 0): True}
    kubelet.lists.clear()
    async with machine.agent():
        await machine.until(lambda: (resource(10), ill) in kubelet.lists, "ill")
        machine.write_gpus({}, {})
        await machine.until(lambda: (resource(10), well) in kubelet.lists, "well")


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


async def test_node_stays_closed_though_the_kubelet_opens_it_while_the_agent_stops(
    machine: Machine,
) -> None:
    opened: list[Json] = []

    def open_again(plural: str, body: Json) -> None:
        """The kubelet writes the node's status between the agent's farewell and its end."""
        conditions = body.get("status", {}).get("conditions", ())
        if plural == "nodelayouts" and "Stopping" in {each["reason"] for each in conditions}:
            status = {"allocatable": {resource(10): "3"}}
            opened.append(machine.kube.change(NODES, NODE, {"status": status}))

    async with machine.agent(farewell=True):
        await machine.applied({"10gb": 3})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.kube.on_write = open_again
    assert len(opened) == 1
    assert machine.allocatable() == {resource(10): "1"}


async def test_agent_that_is_stopped_in_trouble_closes_the_node_all_the_same(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.kubelet.podresources._CALL", 0.2)
    async with machine.agent(farewell=True):
        await machine.applied({"10gb": 3})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        machine.kubelet.refusals = 1_000_000  # somebody else asks it all the time
        machine.lay_out({"10gb": 4})
        await machine.until(
            lambda: machine.condition("Ready").get("reason") == "KubeletUnavailable", "trouble"
        )
    assert machine.allocatable() == {resource(10): "1"}
    assert machine.condition("Ready")["reason"] == "Stopping"


async def test_agent_without_the_kubelets_word_says_which_socket_is_silent(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.kubelet.podresources._CALL", 0.1)
    monkeypatch.setattr("nodeagent.controller._TROUBLE_SECONDS", 0.1)
    machine.kubelet.refusals = 1_000_000
    machine.lay_out({"10gb": 1})
    async with machine.agent():
        await machine.until(lambda: machine.condition("Ready"), "told")
        condition = machine.condition("Ready")
    assert condition["reason"] == "KubeletUnavailable"
    assert str(machine.kubelet.pod_resources_socket) in condition["message"]


async def test_pod_that_was_bound_before_the_agent_left_gets_its_slice(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler may bind a pod by what the node showed a moment ago."""
    list_page, looks = machine.kube.list_page, list[str]()

    async def counted(resource: Resource, *, namespace: str | None = None, query: Query) -> Json:
        looks.append(resource.plural)
        return await list_page(resource, namespace=namespace, query=query)

    async def admit_once_it_is_waited_for(key: str) -> None:
        await machine.until(lambda: looks.count("pods") > 2, "the agent looks again")
        # The agent may leave before the container's start, which a kubelet tries again.
        with suppress(AdmissionError):
            await machine.admit(key, 10)

    async with machine.agent(farewell=True):
        await machine.applied({"10gb": 1})
        monkeypatch.setattr(machine.kube, "list_page", counted)
        key = machine.bind(10)
        admission = asyncio.create_task(admit_once_it_is_waited_for(key))
    await admission
    assert [admitted.pod for admitted in machine.kubelet.admitted] == [key]
    assert machine.kubelet.panics == []
