"""What a container that starts waits for, and what it is told when it waits in vain."""

import asyncio
from pathlib import Path

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
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


@pytest.fixture
def service(tmp_path: Path, table: SliceTable, monkeypatch: pytest.MonkeyPatch) -> SliceService:
    monkeypatch.setattr("nodeagent.kubelet.service.READY_SECONDS", 0.05)
    settings = Settings("n1", tmp_path, tmp_path / "p.sock", tmp_path / "mps", None)
    witness = Witness(table, Silent(), tmp_path / "checkpoint")
    enforcer = MpsEnforcer(settings, FakeMps())
    return SliceService(table, witness, enforcer, None, settings.memory_unit)


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
