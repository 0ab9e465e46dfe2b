"""What a container that starts waits for, and what it is told when it waits in vain."""

import asyncio
from pathlib import Path

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from nodeagent.errors import AgentError
from nodeagent.hardware import Gpu
from nodeagent.kubelet.service import SliceService
from nodeagent.settings import Settings
from nodeagent.slices.holders import Claim, Holder, Pods
from nodeagent.slices.inventory import Inventory
from nodeagent.slices.ledger import Ledger
from nodeagent.slices.leftovers import Leftovers
from tests.nodeagent.conftest import AMPERE, device, gpu
from tests.nodeagent.fake_mps import FakeMps

SLICE = device(1, 10, 0)


class Silent:
    """A kubelet that is asked and does not answer, and a driver that is not asked."""

    async def list(self) -> tuple[Claim, ...]:
        await asyncio.Event().wait()
        return ()

    async def processes(self, gpu: GpuUuid) -> tuple[()]:
        return ()


@pytest.fixture
def leftovers() -> Leftovers:
    return Leftovers(Silent())


@pytest.fixture
def service(tmp_path: Path, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> SliceService:
    monkeypatch.setattr("nodeagent.kubelet.service.READY_SECONDS", 0.05)
    settings = Settings("n1", tmp_path, tmp_path / "p.sock", tmp_path / "mps", None)
    inventory = Inventory([Gpu(GpuUuid(gpu(1)), 0, "A100", 81920, 626, AMPERE)])
    ledger = Ledger(Silent(), tmp_path / "checkpoint", Pods, leftovers)
    return SliceService(settings, inventory, ledger, FakeMps())


def test_slice_that_is_about_to_go_is_given_last(service: SliceService) -> None:
    inventory = service._inventory
    inventory.add([DeviceId.parse(device(1, 10, n)) for n in (0, 1)], bindable=True)
    inventory.close([DeviceId.parse(SLICE)])
    both = [SLICE, device(1, 10, 1)]
    assert service.prefer(both, (), 1) == (device(1, 10, 1),)
    assert service.prefer([SLICE], (), 1) == (SLICE,)


async def test_kubelet_that_does_not_tell_is_not_taken_for_an_earlier_holder(
    service: SliceService,
) -> None:
    with pytest.raises(AgentError, match=r"whether slice .* is still used .* is not known after"):
        await service.prepare([SLICE])


async def test_earlier_holder_whose_processes_stay_is_told_of(
    service: SliceService, leftovers: Leftovers
) -> None:
    leftovers.suspect({DeviceId.parse(SLICE): Holder("ns/a", "main", "uid-a")})
    with pytest.raises(AgentError, match="is still used by processes of a pod that is gone"):
        await service.prepare([SLICE])
