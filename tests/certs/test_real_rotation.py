"""Certificates on a real API server: from the first start through whole rotations, and in races."""

import asyncio
import logging
from typing import Any

from cryptography import x509

from mpslice.kube.api import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Json, Kube, Resource
from mpslice.kube.errors import Conflict, Unreachable
from tests.certs.replicas import (
    SECRET,
    Place,
    Replica,
    handshake,
    replica,
    short_lives,
    verifying,
)
from tests.waiting import DEADLINE, eventually

CONFIGURATIONS = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)


async def test_first_start_makes_a_certificate_that_every_ca_bundle_verifies(here: Place) -> None:
    async with replica(here) as one, asyncio.timeout(DEADLINE):
        await one.ready()
        bundles = await here.bundles()
        assert len(bundles) == 3
        assert len(set(bundles)) == 1
        leaf = await handshake(one.address, here.server_name, bundles[0])
        await handshake(one.address, f"{here.server_name}.cluster.local", bundles[0])
    days = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days
    assert 89 <= days <= 91
    assert one.hot_swap.expires == leaf.not_valid_after_utc


async def test_restart_serves_the_same_certificate_and_writes_nothing(here: Place) -> None:
    async with replica(here) as one:
        await one.ready()
        before = await here.secret()
        first = await handshake(one.address, here.server_name, (await here.bundles())[0])
    async with replica(here) as one:
        await one.ready()
        second = await handshake(one.address, here.server_name, (await here.bundles())[0])
    assert second == first
    assert await here.secret() == before


async def test_replicas_that_start_at_once_serve_one_certificate(here: Place) -> None:
    async with replica(here) as one, replica(here) as two, replica(here) as three:
        for each in (one, two, three):
            await each.ready()
        bundle = (await here.bundles())[0]
        leaves = {
            await handshake(each.address, here.server_name, bundle) for each in (one, two, three)
        }
    assert len(leaves) == 1


async def test_no_handshake_fails_while_the_ca_is_rotated(here: Place) -> None:
    lives = short_lives(authority=20, leaf=9, propagation=0.5)
    async with replica(here, **lives) as one, replica(here, **lives) as two:
        await one.ready()
        await two.ready()
        first = x509.load_pem_x509_certificate((await here.bundles())[0])

        async def old_ca_is_gone() -> bool:
            found = [x509.load_pem_x509_certificates(pem) for pem in await here.bundles()]
            return all(first not in trusted for trusted in found)

        async with verifying(here, (one, two)) as tally:
            await eventually(old_ca_is_gone, "the first CA has left every caBundle")
    logging.getLogger(__name__).info("%s", tally)
    assert not tally.failures, (len(tally.failures), tally.handshakes, tally.failures[:5])
    assert len(tally.issuers) >= 2
    assert len(tally.leaves) >= 3  # renewals by one CA, and the promotion
    assert tally.handshakes > 50


async def _leaf(here: Place, one: Replica) -> x509.Certificate:
    """What a replica serves; any of the caBundles may verify it."""
    return await handshake(one.address, here.server_name, b"".join(await here.bundles()))


class Delegate:
    """A Kube whose calls a test can hold up or fail; the rest goes to the real one."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)


class _StallingPatch(Delegate):
    """Holds up the first patch of a webhook configuration until `go`, and keeps its outcome."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(kube)
        self.armed = False
        self.go = asyncio.Event()
        self.stalled = asyncio.Event()
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def patch(self, resource: Resource, *args: Any, **kwargs: Any) -> Json:
        if resource not in CONFIGURATIONS or not self.armed or self.stalled.is_set():
            return await self._kube.patch(resource, *args, **kwargs)
        self.stalled.set()
        await self.go.wait()
        try:
            answer = await self._kube.patch(resource, *args, **kwargs)
        except Conflict:
            self.outcome.set_result("refused")
            raise
        self.outcome.set_result("written")
        return answer


async def test_stalled_replica_cannot_write_an_old_ca_bundle_over_a_newer_one(
    here: Place,
) -> None:
    stalling = _StallingPatch(here.kube)
    lives = short_lives(authority=12, leaf=30, propagation=0.2)
    async with replica(here, stalling, **lives) as slow:
        await slow.ready()
        first = (await _leaf(here, slow)).issuer
        stalling.armed = True
        await here.empty_bundle(VALIDATING_WEBHOOKS)
        async with asyncio.timeout(DEADLINE):
            await stalling.stalled.wait()  # with a patch in hand that knows one CA
        async with replica(here, **lives) as quick:
            await quick.ready()

            async def promoted() -> bool:
                return (await _leaf(here, quick)).issuer != first

            await eventually(promoted, "the next CA signs")
            async with verifying(here, (quick,)) as tally:
                stalling.go.set()
                async with asyncio.timeout(DEADLINE):
                    assert await stalling.outcome == "refused"
    assert not tally.failures


class _FrozenSecret(Delegate):
    """A Kube to which the Secret cannot be read while `frozen`."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(kube)
        self.frozen = False

    async def read(self, resource: Resource, *args: Any, **kwargs: Any) -> Json:
        if self.frozen and resource == SECRETS:
            raise Unreachable("GET the Secret: the test has cut the line")
        return await self._kube.read(resource, *args, **kwargs)


async def test_replica_keeps_its_certificate_until_the_ca_of_a_new_secret_is_trusted(
    here: Place,
) -> None:
    of_old, of_new = _StallingPatch(here.kube), _StallingPatch(here.kube)
    frozen = _FrozenSecret(of_old)
    async with replica(here, frozen) as old:
        await old.ready()
        async with verifying(here, (old,)) as tally:
            frozen.frozen = of_old.armed = of_new.armed = True
            await here.kube.delete(SECRETS, SECRET, namespace=here.name)
            async with replica(here, of_new) as new:  # knows nothing of the Secret that was
                await of_new.stalled.wait()
                frozen.frozen = False  # now the old one reads a leaf whose CA nobody trusts yet
                async with asyncio.timeout(DEADLINE):
                    await of_old.stalled.wait()
                before = tally.handshakes

                async def verified_since() -> bool:
                    return tally.handshakes > before + 10

                await eventually(verified_since, "the old leaf verifies on")
                of_new.go.set()
                of_old.go.set()

                async def agree() -> bool:
                    return await _leaf(here, old) == await _leaf(here, new)

                await eventually(agree, "the old replica serves the new certificate")
                await new.ready()
                await old.ready()
    assert not tally.failures, (tally.handshakes, tally.failures[:5])
    assert len(tally.issuers) == 2


class _AwayAtFirst(Delegate):
    """A Kube whose first calls find nobody."""

    def __init__(self, kube: Kube, calls: int) -> None:
        super().__init__(kube)
        self.left = calls

    async def read(self, *args: Any, **kwargs: Any) -> Json:
        if self.left > 0:
            self.left -= 1
            raise Unreachable("GET: connection refused")
        return await self._kube.read(*args, **kwargs)


async def test_start_outlives_an_api_server_that_is_away(here: Place) -> None:
    async with replica(here, _AwayAtFirst(here.kube, 3)) as one:
        await one.ready()
