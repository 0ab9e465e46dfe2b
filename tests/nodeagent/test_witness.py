"""When the evidence of who holds what is read again, and what becomes of what nothing explains."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.errors import KubeletUnavailable
from nodeagent.kubelet.witness import Witness
from nodeagent.slices.evidence import Claim, Holder, Pods
from nodeagent.slices.leftovers import follow_leftovers
from nodeagent.slices.pods import Need, PodFacts
from nodeagent.slices.table import SliceTable
from tests.nodeagent.conftest import device
from tests.waiting import DEADLINE, eventually

SLICE = DeviceId.parse(device(1, 10, 0))
POD = PodFacts("ns/a", "uid-a", (Need("main", SliceSize(10)),))


class NoProcesses:
    async def processes(self, gpu: GpuUuid) -> tuple[()]:
        return ()


NO_PROCESSES = NoProcesses()
CLAIM = Claim(SLICE, "main", pod="ns/a")


class Kubelet:
    """PodResources, and the pods of the API beside it."""

    def __init__(self) -> None:
        self.claims: tuple[Claim, ...] = ()
        self.pods = Pods.of([])
        self.reads = 0
        self.away = False
        self.on_list: Callable[[], None] = lambda: None

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


def table_of(kubelet: Kubelet) -> SliceTable:
    table = SliceTable([], lambda: kubelet.pods)
    table.carve([SLICE])
    return table


@pytest.fixture
def table(kubelet: Kubelet) -> SliceTable:
    return table_of(kubelet)


@pytest.fixture
def witness(table: SliceTable, kubelet: Kubelet, tmp_path: Path) -> Witness:
    return Witness(table, kubelet, tmp_path / "checkpoint")


@asynccontextmanager
async def running(witness: Witness) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(witness.run())]
    tasks.append(asyncio.create_task(follow_leftovers(witness._table, NO_PROCESSES)))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_allocate_holds_at_once_and_is_explained_when_the_kubelet_shows_it(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    async with running(witness):
        table.allocate([SLICE])
        witness.stale()
        assert table.holders == {SLICE: Holder()}
        kubelet.pods = Pods.of([POD])
        kubelet.claims = (CLAIM,)

        async def explained() -> bool:
            return table.holders == {SLICE: Holder("ns/a", "main", "uid-a")}

        await eventually(explained, "explained without anybody's word", every=0.002)


async def test_pod_that_ends_while_the_evidence_is_read_holds_nothing(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    kubelet.pods, kubelet.claims = Pods.of([POD]), (CLAIM,)

    def ends() -> None:
        kubelet.pods = Pods.of([])
        witness.pods_changed()

    kubelet.on_list = ends
    await witness.look()
    assert table.holders == {}


async def test_listed_stranger_holds_and_is_looked_at_again(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    kubelet.claims = (CLAIM,)
    async with running(witness):

        async def held() -> bool:
            return table.holders == {SLICE: Holder("ns/a", "main")}

        await eventually(held, "believed", every=0.002)
        kubelet.claims = ()

        async def free() -> bool:
            return not table.holders

        await eventually(free, "read again without anybody's word", every=0.002)


async def test_stranger_that_somebody_elses_look_finds_is_looked_at_again(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    """A withdrawal looks while the kubelet still lists a pod that the API has forgotten."""
    async with running(witness):

        async def rests() -> bool:
            return witness.known.count > 0

        await eventually(rests, "read once, and explained", seconds=5, every=0.002)
        kubelet.claims = (CLAIM,)
        await witness.look()
        assert table.holders == {SLICE: Holder("ns/a", "main")}
        kubelet.claims = ()

        async def free() -> bool:
            return not table.holders

        await eventually(free, "read again without anybody's word", seconds=5, every=0.002)


async def test_allocate_that_nothing_explains_is_forgotten(
    witness: Witness, table: SliceTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod failed its admission after it."""
    table.allocate([SLICE])
    await witness.look()
    assert SLICE in table.holders
    monkeypatch.setattr("nodeagent.kubelet.witness.FORGOTTEN_SECONDS", -1.0)
    await witness.look()
    assert table.holders == {}


async def test_allocate_is_kept_while_a_pod_lives_whose_slice_nobody_shows(
    witness: Witness, table: SliceTable, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An init container's is told by the checkpoint alone, and that may be out of date."""
    monkeypatch.setattr("nodeagent.kubelet.witness.FORGOTTEN_SECONDS", -1.0)
    kubelet.pods = Pods.of([replace(POD, admitted=True)])
    table.allocate([SLICE])
    await witness.look()
    assert SLICE in table.holders
    kubelet.pods = Pods.of([replace(POD, admitted=True, ended=True)])
    await witness.look()
    assert table.holders == {}


async def test_nothing_is_read_while_nothing_happens(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    kubelet.pods, kubelet.claims = Pods.of([POD]), (CLAIM,)
    async with running(witness):
        await asyncio.wait_for(witness.known.after(0), DEADLINE)
        witness.checkpoint_written()  # the echo of a list of ours
        witness.pods_changed()
        for _ in range(20):
            await asyncio.sleep(0)
    assert kubelet.reads == 1


async def test_kubelet_that_comes_back_is_asked_at_once(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    kubelet.away = True
    async with running(witness):

        async def asked() -> bool:
            return kubelet.reads > 0

        await eventually(asked, "asked in vain", every=0.002)
        kubelet.away = False
        witness.stale()
        await asyncio.wait_for(witness.known.after(0), DEADLINE)


async def test_pod_is_shown_once_each_of_its_containers_is(
    witness: Witness, table: SliceTable, kubelet: Kubelet
) -> None:
    both = PodFacts("ns/a", "uid-a", (*POD.needs, Need("other", SliceSize(10))))
    kubelet.pods, kubelet.claims = Pods.of([both]), (CLAIM,)
    await witness.look()
    assert not table.reading.shows(both)
    kubelet.claims = (CLAIM, Claim(DeviceId.parse(device(1, 10, 1)), "other", pod="ns/a"))
    await witness.look()
    assert table.reading.shows(both)


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
def slow_witness(slow: SlowKubelet, tmp_path: Path) -> Witness:
    return Witness(table_of(slow), slow, tmp_path / "checkpoint")


async def asking(witness: Witness, count: int) -> list["asyncio.Task[None]"]:
    """So many who ask for the evidence, and all wait for it."""
    tasks = [asyncio.create_task(witness.look()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_ask_during_a_reading_share_the_next_one(
    slow: SlowKubelet, slow_witness: Witness
) -> None:
    """It begins after each of them asked; the kubelet refuses whoever asks too often."""
    first = await asking(slow_witness, 1)
    slow.pods, slow.claims = Pods.of([POD]), (CLAIM,)  # too late for the first
    late = await asking(slow_witness, 48)
    slow.answers.release()
    await asyncio.gather(*first)
    assert slow_witness._table.holders == {}
    slow.answers.release()
    await asyncio.wait_for(asyncio.gather(*late), 5)
    assert slow_witness._table.holders == {SLICE: Holder("ns/a", "main", "uid-a")}
    assert slow.reads == 2


async def test_failure_is_shared_too(slow: SlowKubelet, slow_witness: Witness) -> None:
    """Else the last of many that start would wait for as many deadlines, one after another."""
    slow.away = True
    asked = await asking(slow_witness, 48)
    slow.answers.release()
    slow.answers.release()
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} == {KubeletUnavailable}
    assert slow.reads == 2
    slow.away = False
    slow.answers.release()
    await slow_witness.look()


async def test_reading_that_was_given_up_is_no_answer(
    slow: SlowKubelet, slow_witness: Witness
) -> None:
    first, *others = await asking(slow_witness, 3)
    first.cancel()
    slow.answers.release()
    await asyncio.wait_for(asyncio.gather(*others), 5)
    assert slow.reads == 2
