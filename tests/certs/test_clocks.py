"""Clocks that differ: a replica with a wrong one costs the others nothing, and all come to rest."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from certs.clocks import NEVER, SharedTime, last_written
from certs.issue import facts, issue_authority, issue_leaf
from certs.rotation import next_step
from certs.state import State
from tests.certs.memory_kube import MemoryKube
from tests.certs.memory_replicas import (
    DAY,
    Clock,
    Replica,
    all_trust,
    put_secret,
    secret,
    settled,
    state,
)
from tests.waiting import eventually

HOUR = timedelta(hours=1)
START = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = issue_authority(now=START - 900 * DAY, life=3650 * DAY)


def issued_on(day: float) -> State:
    leaf = issue_leaf(AUTHORITY, ("w.n.svc",), now=START + day * DAY, life=90 * DAY)
    return State(AUTHORITY, leaf)


def nothing_bad_is_served(kube: MemoryKube, clock: Clock, replica: Replica) -> Callable[[], None]:
    """To be called at each write: what the replica serves is alive by the right clock, trusted."""

    def check() -> None:
        if replica.swap.pair is not None:
            assert facts(replica.swap.pair.certificate).lives(clock.now)
            assert all_trust(kube, replica)

    return check


def is_good(kube: MemoryKube, replica: Replica, clock: Clock) -> bool:
    """Whether nothing is due to the right clock, and its replica serves the Secret's leaf."""
    now = state(kube)
    due = next_step(now, clock.now, replica.manager._terms, spread=False)
    return due is None and now.leaf == replica.swap.pair


@pytest.mark.parametrize("days", [0.1, 2, 61, 100, 1277, 1900])
async def test_a_replica_with_a_fast_clock_costs_the_others_no_trust_and_gives_way(
    kube: MemoryKube, clock: Clock, days: float
) -> None:
    fast = Clock()
    async with AsyncExitStack() as stack:
        right = await stack.enter_async_context(Replica(kube, clock).running())
        await settled(kube, right)
        clock.now += 50 * DAY
        fast.now = clock.now + days * DAY
        kube.after_change = nothing_bad_is_served(kube, clock, right)
        wrong = await stack.enter_async_context(Replica(kube, fast).running())

        async def at_rest() -> bool:
            return is_good(kube, right, clock) and wrong.swap.pair == right.swap.pair

        await eventually(at_rest, "both serve what is valid now")
        writes = len(kube.writes)
        for replica in (wrong, right) * 3:
            replica.manager._wake()
            await asyncio.sleep(0.01)
        assert len(kube.writes) == writes, "they issue against each other"


async def test_a_replica_that_starts_after_one_with_a_fast_clock_serves_what_is_valid_now(
    kube: MemoryKube, clock: Clock
) -> None:
    fast = Clock()
    fast.now += 400 * DAY
    async with Replica(kube, fast).running() as wrong:
        await settled(kube, wrong)
    async with Replica(kube, clock).running() as right:
        await settled(kube, right)
        assert is_good(kube, right, clock)


async def test_a_clock_behind_the_api_servers_writes_leaves_healthy_certificates_alone(
    kube: MemoryKube, clock: Clock
) -> None:
    slow = Clock()
    async with Replica(kube, clock).running() as right:
        await settled(kube, right)
        put_secret(kube, secret(kube))
        writes = list(kube.writes)
        slow.now -= 3650 * DAY
        async with Replica(kube, slow).running() as wrong:
            await settled(kube, right, wrong)
        assert kube.writes == writes


async def test_a_ca_that_is_not_valid_yet_is_replaced_and_stays_trusted(
    kube: MemoryKube, clock: Clock
) -> None:
    fast = Clock()
    fast.now += 365 * DAY
    async with Replica(kube, fast).running() as replica:
        await settled(kube, replica)
    future = state(kube).authority.certificate
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        assert is_good(kube, replica, clock)
        assert [item.certificate for item in state(kube).retired] == [future]


async def test_a_lost_leaf_is_issued_at_the_api_servers_time_where_the_clock_is_behind_it(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as right:
        await settled(kube, right)
    before = state(kube).authority
    lost = secret(kube)
    del lost["data"]["tls.crt"], lost["data"]["tls.key"]
    put_secret(kube, lost)
    slow = Clock()
    slow.now -= 365 * DAY
    async with Replica(kube, slow).running() as wrong:

        async def is_issued() -> bool:
            return is_good(kube, wrong, clock)

        await eventually(is_issued, "a leaf that is valid now is served")
        assert state(kube).authority == before


def test_who_is_overruled_by_an_earlier_certificate_gives_way_for_the_truce_only() -> None:
    clock = Clock()
    clock.now = START + 70 * DAY
    time = SharedTime(clock, truce=HOUR)
    ours, theirs = issued_on(70), issued_on(0)
    time.issued(ours)
    assert time.now(ours, NEVER) == START + 70 * DAY
    assert time.now(theirs, NEVER) == START - DAY
    assert time.now(theirs, START + DAY) == START + DAY
    clock.now += HOUR
    assert time.now(theirs, NEVER) == clock.now


def test_a_later_certificate_of_another_replica_is_no_reason_to_give_way() -> None:
    clock = Clock()
    clock.now = START
    time = SharedTime(clock, truce=HOUR)
    assert time.now(issued_on(-80), NEVER) == START
    time.issued(issued_on(0))
    assert time.now(issued_on(1), NEVER) == START


def test_a_backup_that_is_put_back_after_the_truce_is_no_reason_to_give_way() -> None:
    clock = Clock()
    clock.now = START + 70 * DAY
    time = SharedTime(clock, truce=HOUR)
    time.issued(issued_on(70))
    clock.now += DAY
    assert time.now(issued_on(0), NEVER) == clock.now


def test_writing_on_with_the_others_certificate_does_not_end_the_truce() -> None:
    clock = Clock()
    clock.now = START + 70 * DAY
    time = SharedTime(clock, truce=HOUR)
    time.issued(issued_on(70))
    theirs = issued_on(0)
    time.now(theirs, NEVER)
    time.issued(replace(theirs, retired=()))
    assert time.now(theirs, NEVER) == START - DAY


def test_an_object_was_written_last_at_the_latest_of_its_stamps() -> None:
    stamps = [{"time": "2030-01-03T00:00:00Z"}, {"time": "2030-01-02T00:00:00Z"}, {}]
    metadata = {"creationTimestamp": "2030-01-01T00:00:00Z"}
    assert last_written({"metadata": metadata}) == START
    assert last_written({"metadata": {**metadata, "managedFields": stamps}}) == START + 2 * DAY
    assert last_written({"metadata": {}}) == NEVER
