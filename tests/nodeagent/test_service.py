"""What a container that starts waits for, and what it is told when it waits in vain."""

import asyncio
from pathlib import Path

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.cdi import CdiSpecs
from nodeagent.errors import AgentError
from nodeagent.hardware import Gpu
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet.witness import Witness
from nodeagent.mps.enforcer import MpsEnforcer
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Claim, Pods, Reading
from nodeagent.slices.pods import Need, PodFacts
from nodeagent.slices.table import SliceTable
from tests.nodeagent.conftest import AMPERE, device, gpu
from tests.nodeagent.fake_mps import FakeMps

SLICE = device(1, 10, 0)


class Silent:
    """A kubelet that is asked and does not answer."""

    async def list(self) -> tuple[Claim, ...]:
        await asyncio.Event().wait()
        return ()


@pytest.fixture
def table() -> SliceTable:
    table = SliceTable([Gpu(GpuUuid(gpu(1)), 0, "A100", 81920, 626, AMPERE)])
    table.adopt([DeviceId.parse(device(1, 10, n)) for n in (0, 1)])
    return table


def a_service(folder: Path, table: SliceTable, cdi: CdiSpecs | None = None) -> SliceService:
    settings = Settings("n1", folder, folder / "p.sock", folder / "mps", None)
    witness = Witness(table, Silent(), folder / "checkpoint")
    enforcer = MpsEnforcer(settings, FakeMps())
    return SliceService(table, witness, enforcer, cdi, settings.memory_unit)


@pytest.fixture
def service(tmp_path: Path, table: SliceTable, monkeypatch: pytest.MonkeyPatch) -> SliceService:
    monkeypatch.setattr("nodeagent.kubelet.service.READY_SECONDS", 0.05)
    return a_service(tmp_path, table)


def test_slice_that_is_about_to_go_is_given_last(service: SliceService, table: SliceTable) -> None:
    table.close([DeviceId.parse(SLICE)])
    both = [SLICE, device(1, 10, 1)]
    assert service.prefer(both, (), 1) == (device(1, 10, 1),)
    assert service.prefer([SLICE], (), 1) == (SLICE,)


async def test_kubelet_that_does_not_tell_is_not_taken_for_an_earlier_holder(
    service: SliceService,
) -> None:
    with pytest.raises(AgentError, match=r"whether slice .* is still used .* is not known after"):
        await service.prepare([SLICE])


async def test_earlier_holder_whose_processes_stay_is_told_of(
    service: SliceService, table: SliceTable
) -> None:
    pod = PodFacts("ns/a", "uid-a", (Need("main", SliceSize(10)),))
    table.pods = lambda: Pods.of([pod])
    claim = Claim(DeviceId.parse(SLICE), "main", pod="ns/a")
    table.read(Reading(1.0, (claim,)).with_uids(table.pods()))
    table.pods = Pods
    table.judge()
    with pytest.raises(AgentError, match="is still used by processes of a pod that is gone"):
        await service.prepare([SLICE])


async def test_slice_that_was_foreseen_and_never_came_is_not_specified_for_long(
    tmp_path: Path, table: SliceTable
) -> None:
    cdi = CdiSpecs(tmp_path / "cdi")
    service = a_service(tmp_path, table, cdi)
    first, second = (DeviceId.parse(device(1, size, 0)) for size in (20, 40))
    service.foresee([first])
    await service.complete([first])
    assert all(map(cdi.names, (*table.slices, first)))
    assert service.unspecified([first]) == []
    assert not service.forgotten
    service.foresee([second])
    assert service.forgotten
    await service.complete([second])
    assert [cdi.names(id_) for id_ in (first, second)] == [False, True]


async def test_foreseen_slice_that_stands_stays_specified(
    tmp_path: Path, table: SliceTable
) -> None:
    cdi = CdiSpecs(tmp_path / "cdi")
    service = a_service(tmp_path, table, cdi)
    coming = DeviceId.parse(device(1, 20, 0))
    service.foresee([coming])
    await service.complete([coming])
    table.carve([coming])
    service.foresee(())
    assert not service.forgotten
    await service.specify(())
    assert cdi.names(coming)
