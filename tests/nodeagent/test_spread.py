"""The agent keeps pods of a spread group apart, though it is never told for whom it is asked."""

from pathlib import Path

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION
from mpslice.slices import SliceSize, resource_name
from nodeagent.errors import AgentError
from nodeagent.hardware import Gpu
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet.witness import Witness
from nodeagent.mps.enforcer import MpsEnforcer
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Claim, Pods, Reading
from nodeagent.slices.pods import Need, PodFacts, project_pod
from nodeagent.slices.table import SliceTable
from tests.nodeagent.conftest import AMPERE, device, gpu
from tests.nodeagent.fake_mps import FakeMps

BESIDE, APART = device(1, 10, 1), device(2, 10, 0)
"""Free slices: on the GPU of the member that runs, and on the other one."""


def pod(name: str, spread: str = "ns/g") -> PodFacts:
    return PodFacts(f"ns/{name}", f"uid-{name}", (Need("main", SliceSize(10)),), spread=spread)


class Kubelet:
    """Lists what it is told."""

    def __init__(self) -> None:
        self.claims: tuple[Claim, ...] = ()

    async def list(self) -> tuple[Claim, ...]:
        return self.claims


@pytest.fixture
def table() -> SliceTable:
    gpus = [Gpu(GpuUuid(gpu(n)), n - 1, "A100", 81920, 626, AMPERE) for n in (1, 2)]
    table = SliceTable(gpus)
    table.adopt([DeviceId.parse(device(1, 10, n)) for n in (0, 1)])
    table.adopt([DeviceId.parse(APART)])
    return table


@pytest.fixture
def kubelet() -> Kubelet:
    return Kubelet()


@pytest.fixture
def service(tmp_path: Path, table: SliceTable, kubelet: Kubelet) -> SliceService:
    settings = Settings("n1", tmp_path, tmp_path / "p.sock", tmp_path / "mps", None)
    witness = Witness(table, kubelet, tmp_path / "checkpoint")
    return SliceService(
        table, witness, MpsEnforcer(settings, FakeMps()), None, settings.memory_unit
    )


def bind(table: SliceTable, *pods: PodFacts) -> None:
    """The first of the pods holds a slice of the first GPU; the others are bound to the node."""
    table.pods = lambda: Pods.of(pods)
    claim = Claim(DeviceId.parse(device(1, 10, 0)), "main", pod=pods[0].key)
    table.read(Reading(1.0, (claim,)).with_uids(table.pods()))


def test_member_is_given_a_slice_beside_no_other(service: SliceService, table: SliceTable) -> None:
    bind(table, pod("a"), pod("b"))
    assert service.prefer([BESIDE, APART], (), 1) == (APART,)
    assert service.prefer([BESIDE], (), 1) == (BESIDE,)


def test_pod_of_no_such_group_fills_the_fuller_gpu(
    service: SliceService, table: SliceTable
) -> None:
    bind(table, pod("a"), pod("b", spread=""))
    assert service.prefer([BESIDE, APART], (), 1) == (BESIDE,)


def test_slice_that_nobody_is_known_to_have_counts_as_a_members(
    service: SliceService, table: SliceTable
) -> None:
    table.pods = lambda: Pods.of([pod("a"), pod("b")])
    table.allocate([DeviceId.parse(device(1, 10, 0))])
    assert service.prefer([BESIDE, APART], (), 1) == (APART,)


def test_slice_that_suits_no_pod_that_may_be_meant_is_refused(
    service: SliceService, table: SliceTable
) -> None:
    bind(table, pod("a"), pod("b"))
    with pytest.raises(AgentError, match="is on the GPU of pod ns/a of the same group"):
        service.allocate([BESIDE])
    assert service.allocate([APART])


def test_slice_is_not_refused_while_it_may_be_for_another_pod(
    service: SliceService, table: SliceTable
) -> None:
    bind(table, pod("a"), pod("b"), pod("x", spread=""))
    assert service.allocate([BESIDE])


async def test_no_container_starts_beside_another_member(
    service: SliceService, table: SliceTable, kubelet: Kubelet
) -> None:
    bind(table, pod("a"), pod("b"), pod("x", spread=""))
    service.allocate([BESIDE])
    kubelet.claims = (
        Claim(DeviceId.parse(device(1, 10, 0)), "main", pod="ns/a"),
        Claim(DeviceId.parse(BESIDE), "main", pod="ns/b"),
    )
    with pytest.raises(AgentError, match="pod ns/a of the same group"):
        await service.prepare([BESIDE])


async def test_container_waits_while_it_is_not_known_whose_it_is(
    service: SliceService,
    table: SliceTable,
    kubelet: Kubelet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nodeagent.kubelet.service.READY_SECONDS", 0.2)
    bind(table, pod("a"), pod("x", spread=""))
    service.allocate([BESIDE])
    running = Claim(DeviceId.parse(device(1, 10, 0)), "main", pod="ns/a")
    kubelet.claims = (running,)
    with pytest.raises(AgentError, match="another pod of its spread group is not known after"):
        await service.prepare([BESIDE])
    kubelet.claims = (running, Claim(DeviceId.parse(BESIDE), "main", pod="ns/x"))
    await service.prepare([BESIDE])


@pytest.mark.parametrize(
    ("labels", "said", "spread"),
    [({GROUP_LABEL: "g"}, "gpu", "ns/g"), ({}, "gpu", ""), ({GROUP_LABEL: "g"}, "node", "")],
)
def test_group_is_known_by_label_and_annotation(
    labels: dict[str, str], said: str, spread: str
) -> None:
    limits = {resource_name(SliceSize(10)): "1"}
    annotations = {SPREAD_ANNOTATION: said}
    metadata = {"namespace": "ns", "name": "a", "uid": "u", "labels": labels}
    container = {"name": "main", "resources": {"limits": limits}}
    facts = project_pod(
        {"metadata": {**metadata, "annotations": annotations}, "spec": {"containers": [container]}}
    )
    assert facts is not None
    assert facts.spread == spread
