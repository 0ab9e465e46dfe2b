"""When the evidence of who holds what is read again, and what becomes of what nothing explains."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.errors import KubeletUnavailable
from nodeagent.hardware import GpuProcess
from nodeagent.slices.holders import Claim, Holder, Pods
from nodeagent.slices.ledger import Ledger
from nodeagent.slices.leftovers import Leftovers
from nodeagent.slices.pods import Need, PodFacts
from tests.nodeagent.conftest import device
from tests.waiting import eventually

SLICE = DeviceId.parse(device(1, 10, 0))
POD = PodFacts("ns/a", "uid-a", (Need("main", SliceSize(10)),))
CLAIM = Claim(SLICE, "main", pod="ns/a")


class Kubelet:
    """PodResources, and the pods of the API beside it."""

    def __init__(self) -> None:
        self.claims: tuple[Claim, ...] = ()
        self.pods = Pods.of([])
        self.reads = 0
        self.away = False
        self.users: dict[GpuUuid, Sequence[GpuProcess]] = {}
        self.on_list: Callable[[], None] = lambda: None

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        return self.users.get(gpu, ())

    async def list(self) -> tuple[Claim, ...]:
        self.reads += 1
        if self.away:
            raise KubeletUnavailable("away")
        claims = self.claims
        self.on_list()
        return claims


@pytest.fixture
def kubelet() -> Kubelet:
    return Kubelet()


@pytest.fixture
def ledger(kubelet: Kubelet, tmp_path: Path) -> Ledger:
    leftovers = Leftovers(kubelet)
    return Ledger(kubelet, tmp_path / "checkpoint", lambda: kubelet.pods, leftovers)


@asynccontextmanager
async def running(ledger: Ledger) -> AsyncIterator[None]:
    task = asyncio.create_task(ledger.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_allocate_holds_at_once_and_is_explained_when_the_kubelet_shows_it(
    ledger: Ledger, kubelet: Kubelet
) -> None:
    async with running(ledger):
        ledger.allocated([SLICE])
        assert ledger.holders == {SLICE: Holder()}
        kubelet.pods = Pods.of([POD])
        kubelet.claims = (CLAIM,)

        async def explained() -> bool:
            return ledger.holders == {SLICE: Holder("ns/a", "main", "uid-a")}

        await eventually(explained, "explained without anybody's word", seconds=5, every=0.002)


async def test_pod_that_ends_while_the_evidence_is_read_holds_nothing(
    ledger: Ledger, kubelet: Kubelet
) -> None:
    kubelet.pods, kubelet.claims = Pods.of([POD]), (CLAIM,)

    def ends() -> None:
        kubelet.pods = Pods.of([])
        ledger.pods_changed()

    kubelet.on_list = ends
    await ledger.refresh()
    assert ledger.holders == {}


async def test_listed_stranger_holds_and_is_looked_at_again(
    ledger: Ledger, kubelet: Kubelet
) -> None:
    kubelet.claims = (CLAIM,)
    async with running(ledger):

        async def held() -> bool:
            return ledger.holders == {SLICE: Holder("ns/a", "main")}

        await eventually(held, "believed", seconds=5, every=0.002)
        kubelet.claims = ()

        async def free() -> bool:
            return not ledger.holders

        await eventually(free, "read again without anybody's word", seconds=5, every=0.002)


async def test_allocate_that_nothing_explains_is_forgotten(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod failed its admission after it."""
    ledger.allocated([SLICE])
    await ledger.refresh()
    assert SLICE in ledger.holders
    monkeypatch.setattr("nodeagent.slices.ledger.FORGOTTEN_SECONDS", -1.0)
    await ledger.refresh()
    assert ledger.holders == {}


async def test_allocate_is_kept_while_a_pod_lives_whose_slice_nobody_shows(
    ledger: Ledger, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An init container's is told by the checkpoint alone, and that may be out of date."""
    monkeypatch.setattr("nodeagent.slices.ledger.FORGOTTEN_SECONDS", -1.0)
    kubelet.pods = Pods.of([replace(POD, admitted=True)])
    ledger.allocated([SLICE])
    await ledger.refresh()
    assert SLICE in ledger.holders
    kubelet.pods = Pods.of([replace(POD, admitted=True, ended=True)])
    await ledger.refresh()
    assert ledger.holders == {}


async def test_nothing_is_read_while_nothing_happens(ledger: Ledger, kubelet: Kubelet) -> None:
    kubelet.pods, kubelet.claims = Pods.of([POD]), (CLAIM,)
    async with running(ledger):
        await asyncio.wait_for(ledger.known.after(0), 5)
        ledger.checkpoint_written()  # the echo of a list of ours
        ledger.pods_changed()
        for _ in range(20):
            await asyncio.sleep(0)
    assert kubelet.reads == 1


async def test_kubelet_that_comes_back_is_asked_at_once(ledger: Ledger, kubelet: Kubelet) -> None:
    kubelet.away = True
    async with running(ledger):

        async def asked() -> bool:
            return kubelet.reads > 0

        await eventually(asked, "asked in vain", seconds=5, every=0.002)
        kubelet.away = False
        ledger.kubelet_changed()
        await asyncio.wait_for(ledger.known.after(0), 5)


async def test_pod_is_shown_once_each_of_its_containers_is(
    ledger: Ledger, kubelet: Kubelet
) -> None:
    both = PodFacts("ns/a", "uid-a", (*POD.needs, Need("other", SliceSize(10))))
    kubelet.pods, kubelet.claims = Pods.of([both]), (CLAIM,)
    await ledger.refresh()
    assert not ledger.shows(both)
    kubelet.claims = (CLAIM, Claim(DeviceId.parse(device(1, 10, 1)), "other", pod="ns/a"))
    await ledger.refresh()
    assert ledger.shows(both)


class SlowKubelet(Kubelet):
    """Each answer waits until the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Semaphore(0)

    async def list(self) -> tuple[Claim, ...]:
        try:
            return await super().list()
        finally:
            await self.answers.acquire()


@pytest.fixture
def slow() -> SlowKubelet:
    return SlowKubelet()


@pytest.fixture
def slow_ledger(slow: SlowKubelet, tmp_path: Path) -> Ledger:
    return Ledger(slow, tmp_path / "checkpoint", lambda: slow.pods, Leftovers(slow))


async def asking(ledger: Ledger, count: int) -> list["asyncio.Task[None]"]:
    """So many who ask for the evidence, and all wait for it."""
    tasks = [asyncio.create_task(ledger.refresh()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_ask_during_a_reading_share_the_next_one(
    slow: SlowKubelet, slow_ledger: Ledger
) -> None:
    """It begins after each of them asked; the kubelet refuses whoever asks too often."""
    first = await asking(slow_ledger, 1)
    slow.pods, slow.claims = Pods.of([POD]), (CLAIM,)  # too late for the first
    late = await asking(slow_ledger, 48)
    slow.answers.release()
    await asyncio.gather(*first)
    assert slow_ledger.holders == {}
    slow.answers.release()
    await asyncio.wait_for(asyncio.gather(*late), 5)
    assert slow_ledger.holders == {SLICE: Holder("ns/a", "main", "uid-a")}
    assert slow.reads == 2


async def test_failure_is_shared_too(slow: SlowKubelet, slow_ledger: Ledger) -> None:
    """Else the last of many that start would wait for as many deadlines, one after another."""
    slow.away = True
    asked = await asking(slow_ledger, 48)
    slow.answers.release()
    slow.answers.release()
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} == {KubeletUnavailable}
    assert slow.reads == 2
    slow.away = False
    slow.answers.release()
    await slow_ledger.refresh()


async def test_reading_that_was_given_up_is_no_answer(
    slow: SlowKubelet, slow_ledger: Ledger
) -> None:
    first, *others = await asking(slow_ledger, 3)
    first.cancel()
    slow.answers.release()
    await asyncio.wait_for(asyncio.gather(*others), 5)
    assert slow.reads == 2
