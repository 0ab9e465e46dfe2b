"""The manager against an API server in memory: replicas agree, and rotate without losing trust."""

import asyncio
import base64
import random
from contextlib import AsyncExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from certs.issue import load_bundle
from certs.rotation import next_step
from mpslice.kube.api import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS
from tests.certs.handshakes import shake_hands
from tests.certs.memory_kube import MemoryKube
from tests.certs.memory_replicas import (
    DAY,
    NAME,
    NAMESPACE,
    SECRET,
    Clock,
    Replica,
    all_trust,
    bundles,
    check_trust,
    new_kube,
    put_secret,
    secret,
    settled,
    settled_on_another,
    state,
)
from tests.waiting import eventually


async def test_an_empty_cluster_gets_a_certificate_that_every_webhook_trusts(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        (bundle,) = bundles(kube)
        shake_hands(replica.swap.context, bundle, NAME)
        shake_hands(replica.swap.context, bundle, f"{NAME}.cluster.local")
        assert replica.manager.started.is_set()
        assert secret(kube)["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "mpslice"}


async def test_replicas_that_start_together_agree_on_one_certificate(
    kube: MemoryKube, clock: Clock
) -> None:
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(Replica(kube, clock).running()) for _ in range(3)
        ]
        await settled(kube, *replicas)
        assert kube.writes.count(f"create secrets/{SECRET}") == 1


async def test_nothing_is_written_while_nothing_is_due(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        before = list(kube.writes)
        for _ in range(5):
            replica.manager._wake()  # what a watch does
            await asyncio.sleep(0.01)
        assert kube.writes == before


async def test_a_due_leaf_is_replaced_in_every_replica(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as one, Replica(kube, clock).running() as two:
        await settled(kube, one, two)
        old = one.swap.pair
        clock.now += 61 * DAY
        one.manager._wake()
        await settled_on_another(kube, old, one, two)


async def test_a_ca_rotation_never_serves_what_a_bundle_does_not_trust(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as one, Replica(kube, clock).running() as two:
        await settled(kube, one, two)
        first = state(kube).authority
        clock.now += 1217 * DAY
        one.manager._wake()

        async def promoted() -> bool:
            assert all_trust(kube, one)
            assert all_trust(kube, two)
            return state(kube).authority != first

        await eventually(promoted, "a new CA signs", every=0)
        await settled(kube, one, two)
        assert [item.certificate for item in state(kube).retired] == [first.certificate]
        clock.now += 91 * DAY
        one.manager._wake()

        async def forgotten() -> bool:
            return not state(kube).retired

        await eventually(forgotten, "the old CA is forgotten")
        await settled(kube, one, two)


async def test_a_new_ca_does_not_sign_before_it_has_been_known_for_the_propagation_time(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock, propagation=3600).running() as replica:
        await settled(kube, replica)
        first = state(kube)
        clock.now += 1217 * DAY
        replica.manager._wake()

        async def spread() -> bool:
            upcoming = state(kube).upcoming
            return upcoming is not None and all(
                load_bundle(upcoming.certificate) <= load_bundle(b) for b in bundles(kube)
            )

        await eventually(spread, "the next CA is in every caBundle")
        for _ in range(5):
            replica.manager._wake()
            await asyncio.sleep(0.01)
        assert state(kube).authority == first.authority


async def test_a_configuration_that_the_chart_leaves_out_is_no_fault(
    kube: MemoryKube, clock: Clock
) -> None:
    kube.api.remove(VALIDATING_WEBHOOKS, "mpslice-workloads")
    async with Replica(kube, clock).running() as replica:

        async def trusted() -> bool:
            return kube.api.has(SECRETS, SECRET, NAMESPACE) and all(
                base64.b64decode(hook["clientConfig"].get("caBundle", ""))
                for hook in kube.api.get(MUTATING_WEBHOOKS, "mpslice-pods")["webhooks"]
            )

        await eventually(trusted, "the caBundle is written")
        assert replica.swap.pair is not None


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_whatever_the_order_of_events_no_replica_serves_what_a_bundle_does_not_trust(
    seed: int,
) -> None:
    """Three replicas with stale reads, a Secret spoilt or put back now and then, years of time.

    docs/design/certificates.md: "No request fails during a rotation."
    """
    asyncio.run(_years(random.Random(seed)))


async def _years(dice: random.Random) -> None:
    clock = Clock()
    kube = new_kube(clock)
    kube.delays = lambda: dice.choice((0, 0, 1, 3, 12))
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(
                Replica(kube, clock, patience=60.0, authority_life=300 * DAY).running()
            )
            for _ in range(3)
        ]
        await settled(kube, *replicas)
        kube.after_change = lambda: check_trust(kube, clock, replicas)
        backups = []
        for _ in range(24):
            clock.now += dice.choice((1, 10, 25)) * DAY
            backups.append(secret(kube))
            if dice.random() < 0.1:
                put_secret(kube, dice.choice(backups))
            elif dice.random() < 0.2:
                now = secret(kube)
                put_secret(kube, {**now, "data": {**now["data"], "ca.key": "!"}})
            for replica in dice.sample(replicas, dice.randint(1, 3)):
                replica.manager._wake()
            for _ in range(dice.randint(0, 60)):
                await asyncio.sleep(0)
            clock.now += DAY
            for replica in replicas:  # nobody sleeps through a third of a leaf's life
                replica.manager._wake()

            async def at_rest() -> bool:
                await settled(kube, *replicas)
                terms = replicas[0].manager._terms
                # Every caBundle holds the next CA by now. Were it not to sign before the clock
                # moves on, a leaf that ends with the CA before (of a Secret that was put back)
                # would die in one leap, which no replica sleeps through.
                return next_step(state(kube), clock(), terms, spread=True) is None

            await eventually(at_rest, "nothing is due")
