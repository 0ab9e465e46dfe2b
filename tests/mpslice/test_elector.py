"""The elector: one worker at a time, through every fault of the API server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mpslice.kube.api import Json, Kube
from mpslice.kube.elector import TO_NEXT_LEADER, Elector, Timing
from mpslice.kube.errors import Conflict, NotFound, Unreachable
from tests.waiting import DEADLINE, eventually

FAST = Timing(lease=0.7, renew_within=0.5, retry=0.1)


class LeaseServer:
    """The one Lease, with resource versions; `trouble` makes every call fail or hang."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.reads = 0
        self.trouble: Callable[[], Any] | None = None

    async def _pass(self) -> None:
        if self.trouble is not None:
            await self.trouble()

    async def read(self, *_args: Any, **_options: Any) -> Json:
        self.reads += 1
        await self._pass()
        if self.lease is None:
            raise NotFound("no lease", status=404)
        return dict(self.lease)

    async def create(self, _resource: Any, body: Json, **_options: Any) -> Json:
        await self._pass()
        if self.lease is not None:
            raise Conflict("there is one", status=409)
        return self._store(body)

    async def replace(self, _resource: Any, _name: str, body: Json, **_options: Any) -> Json:
        await self._pass()
        if self.lease is None:
            raise NotFound("no lease", status=404)
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("somebody was quicker", status=409)
        return self._store(body)

    def _store(self, body: Json) -> Json:
        self.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**body, "metadata": metadata}
        return dict(self.lease)


class Candidate:
    """A replica whose work does nothing but show that it is at work."""

    def __init__(self, server: LeaseServer, name: str) -> None:
        self.working = False
        self.started = asyncio.Event()
        kube: Any = _Link(server)
        self.link = kube
        typed: Kube = kube
        self.told: str | None = None
        self.message = ""
        self.elector = Elector(
            typed,
            namespace="n",
            name="l",
            identity=name,
            timing=FAST,
            message=lambda: self.message,
        )
        self.task = asyncio.create_task(self.elector.run(self._work))

    async def _work(self, told: str) -> None:
        self.told = told
        self.working = True
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False
            self.started.clear()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})

    async def kill(self) -> None:
        """Nothing that it is about to do is done."""
        self.link.cut = refused
        await self.stop()


class _Link:
    """One replica's way to the server, which can be cut for it alone."""

    def __init__(self, server: LeaseServer) -> None:
        self._server = server
        self.cut: Callable[[], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            if self.cut is not None:
                await self.cut()
            return await getattr(self._server, name)(*args, **options)

        return call


async def refused() -> None:
    raise Unreachable("connection refused")


async def silence() -> None:
    await asyncio.Event().wait()


def test_a_dead_leader_is_replaced_within_ten_seconds_and_a_slow_renewal_is_waited_for() -> None:
    timing = Timing()
    assert timing.lease + timing.retry <= 10
    assert timing.renew_within - timing.retry >= 5, "seconds that a renewal may take"
    assert timing.lease - timing.renew_within >= 2, "seconds in which the work has to stop"


async def test_lone_candidate_works_and_releases_at_its_end() -> None:
    server = LeaseServer()
    only = Candidate(server, "a")
    async with asyncio.timeout(DEADLINE):
        await only.started.wait()
    await only.stop()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_leader_renews_without_reading_the_lease() -> None:
    server = LeaseServer()
    only = Candidate(server, "a")
    async with asyncio.timeout(DEADLINE):
        await only.started.wait()
    reads, version = server.reads, server.version

    async def renewed() -> bool:
        return server.version >= version + 3

    await eventually(renewed, "the lease is renewed three times")
    assert (server.reads, only.working) == (reads, True)
    await only.stop()


@pytest.mark.parametrize("deleted", [True, False])
async def test_leader_goes_on_after_its_lease_was_written_or_deleted(deleted: bool) -> None:
    server = LeaseServer()
    only = Candidate(server, "a")
    async with asyncio.timeout(DEADLINE):
        await only.started.wait()
    assert server.lease is not None
    if deleted:
        server.lease = None
    else:  # as when the answer to a renewal was lost
        server._store(server.lease)
    version = server.version

    async def renewed() -> bool:
        return server.version >= version + 2

    await eventually(renewed, "the lease is renewed again")
    assert only.working
    await only.stop()


async def test_second_takes_over_at_once_when_the_first_ends() -> None:
    server = LeaseServer()
    first = Candidate(server, "a")
    await first.started.wait()
    second = Candidate(server, "b")
    await first.stop()
    async with asyncio.timeout(FAST.lease):
        await second.started.wait()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 2
    await second.stop()


async def test_a_replica_that_stands_by_knows_which_one_leads() -> None:
    server = LeaseServer()
    first = Candidate(server, "a")
    await first.started.wait()
    second = Candidate(server, "b")

    async def knows() -> bool:
        return second.elector.holder == first.elector.holder == "a"

    await eventually(knows, "both know the leader")
    await second.stop()
    await first.stop()


@pytest.mark.parametrize("fault", [refused, silence], ids=["refused", "silent"])
async def test_leader_cut_off_stops_before_another_starts(fault: Callable[[], Any]) -> None:
    server = LeaseServer()
    first, second = Candidate(server, "a"), Candidate(server, "b")
    await asyncio.wait(
        {asyncio.ensure_future(c.started.wait()) for c in (first, second)},
        return_when=asyncio.FIRST_COMPLETED,
    )
    leader, other = (first, second) if first.working else (second, first)
    overlaps: list[bool] = []
    leader.link.cut = fault
    async with asyncio.timeout(DEADLINE):
        while not other.working:
            overlaps.append(first.working and second.working)
            await asyncio.sleep(0.005)
    assert not leader.working
    assert not any(overlaps)
    leader.link.cut = None
    await leader.stop()
    await other.stop()


async def test_next_leader_gets_the_message_that_the_one_before_wrote_when_it_renewed_last() -> (
    None
):
    server = LeaseServer()
    first = await _leader_with_a_message(server)
    await first.kill()
    second = Candidate(server, "b")
    async with asyncio.timeout(DEADLINE):
        await second.started.wait()
    assert (first.told, second.told) == ("", "62")

    async def gone() -> bool:
        return _message_in(server) == ""

    await eventually(gone, "the second has no message")
    await second.stop()


async def test_leader_that_ends_leaves_what_there_is_to_say_then() -> None:
    server = LeaseServer()
    first = await _leader_with_a_message(server)
    first.message = "61"
    await first.stop()
    assert _message_in(server) == "61"


async def test_leader_that_dies_before_it_renews_leaves_the_message_that_it_got() -> None:
    server = LeaseServer()
    first = await _leader_with_a_message(server)
    await first.stop()
    for name in ("b", "c"):
        next_ = Candidate(server, name)
        async with asyncio.timeout(DEADLINE):
            await next_.started.wait()
        await next_.kill()
        assert next_.told == "62", name


async def _leader_with_a_message(server: LeaseServer) -> Candidate:
    """It has written 62."""
    leader = Candidate(server, "a")
    async with asyncio.timeout(DEADLINE):
        await leader.started.wait()
    leader.message = "62"

    async def written() -> bool:
        return _message_in(server) == "62"

    await eventually(written, "it is in the Lease")
    return leader


def _message_in(server: LeaseServer) -> str:
    assert server.lease is not None
    return str((server.lease["metadata"].get("annotations") or {}).get(TO_NEXT_LEADER) or "")


async def test_work_that_fails_ends_the_run_and_the_renewing() -> None:
    server = LeaseServer()

    async def fail(_: str) -> None:
        raise RuntimeError("broken work")

    kube: Any = server
    elector = Elector(kube, namespace="n", name="l", identity="a", timing=FAST)
    with pytest.raises(RuntimeError, match="broken work"):
        await elector.run(fail)
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_times_have_the_six_digits_that_go_insists_on() -> None:
    server = LeaseServer()
    only = Candidate(server, "a")
    await only.started.wait()
    assert server.lease is not None
    renewed = server.lease["spec"]["renewTime"]
    assert len(renewed) == len("2026-01-01T00:00:00.000000Z")
    assert renewed.endswith("Z")
    await only.stop()
