"""The manager against an API server in memory: replicas agree, and what is spoilt is mended."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.errors import BrokenSecret, CannotManage
from certs.issue import is_issued_by, issue_authority, load_bundle, load_certificate
from certs.manager import CertificateManager, ManagerSettings
from certs.rotation import Step, next_step, take
from certs.serving import HotSwap
from certs.state import State, decode, encode
from mpslice.flags import Address
from mpslice.kube.api import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Json
from mpslice.kube.errors import Forbidden, Unreachable
from tests.certs.handshakes import shake_hands
from tests.certs.memory_kube import MemoryKube
from tests.waiting import eventually

SECRET = "mpslice-webhook-tls"
NAME = "mpslice-webhook.mpslice-system.svc"
DAY = timedelta(days=1)
CONFIGURATIONS = (
    (MUTATING_WEBHOOKS, "mpslice-pods"),
    (VALIDATING_WEBHOOKS, "mpslice-pods"),
    (VALIDATING_WEBHOOKS, "mpslice-workloads"),
)


class Clock:
    """Wall-clock time that a test moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


class Replica:
    """One manager with what it serves."""

    def __init__(
        self,
        kube: MemoryKube,
        clock: Clock,
        propagation: float = 0.0,
        patience: float = 0.0,
        authority_life: timedelta = 1825 * DAY,
    ) -> None:
        self.swap = HotSwap()
        settings = ManagerSettings(
            namespace="mpslice-system",
            service_name="mpslice-webhook",
            secret_name=SECRET,
            cluster_domain="cluster.local",
            mutating_configurations=("mpslice-pods",),
            validating_configurations=("mpslice-pods", "mpslice-workloads"),
            address=Address("127.0.0.1", 1),  # nobody listens: trust is test_readiness's subject
            propagation=propagation,
            patience=patience,
            authority_life=authority_life,
        )
        self.manager = CertificateManager(kube, settings, self.swap, clock=clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        task = asyncio.create_task(self.manager.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def new_kube() -> MemoryKube:
    kube = MemoryKube()
    for resource, name in CONFIGURATIONS:
        hooks = [{"name": f"{i}.{name}", "clientConfig": {"service": {}}} for i in range(2)]
        kube.put(resource, name, {"metadata": {}, "webhooks": hooks})
    return kube


@pytest.fixture
def kube() -> MemoryKube:
    return new_kube()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def secret(kube: MemoryKube) -> Json:
    return kube.objects["secrets", SECRET]


def state(kube: MemoryKube) -> State:
    return decode(secret(kube)["data"])


def bundles(kube: MemoryKube) -> set[bytes]:
    found = set()
    for resource, name in CONFIGURATIONS:
        for hook in kube.objects[resource.plural, name]["webhooks"]:
            found.add(base64.b64decode(hook["clientConfig"].get("caBundle", "")))
    return found


def all_trust(kube: MemoryKube, replica: Replica) -> bool:
    """Whether a client with any of the caBundles accepts what the replica serves now."""
    if replica.swap.pair is None:
        return False
    leaf = replica.swap.pair.certificate
    return all(any(is_issued_by(leaf, ca) for ca in load_bundle(b)) for b in bundles(kube))


async def settled(kube: MemoryKube, *replicas: Replica) -> None:
    """Every replica serves the Secret's leaf, and every caBundle is the Secret's."""

    async def all_agree() -> bool:
        if ("secrets", SECRET) not in kube.objects:
            return False
        try:
            now = state(kube)
        except BrokenSecret:
            return False
        wanted = load_bundle(now.bundle)
        return all(r.swap.pair == now.leaf for r in replicas) and all(
            load_bundle(bundle) == wanted for bundle in bundles(kube)
        )

    await eventually(all_agree, "Secret, caBundles and served certificates agree", seconds=5)


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


async def settled_on_another(kube: MemoryKube, old: object, *replicas: Replica) -> None:
    async def changed() -> bool:
        return all(replica.swap.pair != old for replica in replicas)

    await eventually(changed, "another certificate is served", seconds=5)
    await settled(kube, *replicas)


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


async def test_an_emptied_ca_bundle_is_filled_again(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        body = {"metadata": {}, "webhooks": [{"name": "x", "clientConfig": {"service": {}}}]}
        kube.put(MUTATING_WEBHOOKS, "mpslice-pods", body)
        await settled(kube, replica)


async def test_a_deleted_secret_comes_back_with_the_same_content(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        before = state(kube)
        kube.remove(SECRETS, SECRET)
        await settled(kube, replica)
        assert state(kube) == before


@pytest.mark.parametrize("key", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
async def test_a_spoilt_secret_is_repaired_while_the_last_good_certificate_serves(
    kube: MemoryKube, clock: Clock, key: str
) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        before = secret(kube)
        spoilt = {**before, "data": {**before["data"], key: base64.b64encode(b"junk").decode()}}
        kube.put(SECRETS, SECRET, spoilt)

        async def repaired() -> bool:
            assert all_trust(kube, replica)
            return bool(secret(kube)["data"][key] != spoilt["data"][key])

        await eventually(repaired, "the Secret is repaired", every=0)
        await settled(kube, replica)


async def test_a_replica_that_starts_with_a_spoilt_secret_leaves_the_others_trusted(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as first:
        await settled(kube, first)
    spoilt = {**secret(kube), "data": {"ca.crt": "junk"}}
    kube.put(SECRETS, SECRET, spoilt)
    async with Replica(kube, clock).running() as second:
        await settled(kube, second)
        assert all_trust(kube, first), "the first replica still serves its old leaf"


async def test_a_replica_keeps_its_trusted_leaf_until_the_new_one_is_trusted(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock, propagation=3600).running() as replica:
        await settled(kube, replica)
        kept = replica.swap.pair
        terms = replica.manager._terms
        fresh = take(Step.START_OVER, None, clock(), terms, (state(kube).authority.certificate,))
        kube.put(SECRETS, SECRET, {**secret(kube), "data": encode(fresh)})

        async def published() -> bool:
            wanted = load_certificate(fresh.authority.certificate)
            return all(wanted in load_bundle(bundle) for bundle in bundles(kube))

        await eventually(published, "the new CA is in every caBundle")
        assert replica.swap.pair == kept


async def test_an_older_secret_that_is_put_back_costs_no_trust(
    kube: MemoryKube, clock: Clock
) -> None:
    """As a restored backup does it: its CA is forgotten, and it does not know the one in use."""
    async with Replica(kube, clock).running() as one, Replica(kube, clock).running() as two:
        await settled(kube, one, two)
        old = secret(kube)
        for days in (1217, 91):
            clock.now += days * DAY
            one.manager._wake()
            await settled_on_another(kube, one.swap.pair, one, two)

            async def nothing_is_due() -> bool:
                return state(kube).upcoming is None

            await eventually(nothing_is_due, "the rotation is over")
        await settled(kube, one, two)
        assert load_bundle(decode(old["data"]).bundle).isdisjoint(load_bundle(state(kube).bundle))
        kube.after_write = lambda: _check(kube, clock, [one, two])
        kube.put(SECRETS, SECRET, old)
        await settled_on_another(kube, one.swap.pair, one, two)


async def test_somebody_elses_secret_is_never_overwritten(kube: MemoryKube, clock: Clock) -> None:
    kube.put(SECRETS, SECRET, {"metadata": {}, "data": {"password": "eA=="}})
    with pytest.raises(CannotManage, match=r"somebody else's data.*--tls-secret"):
        await Replica(kube, clock).manager.run()
    assert kube.writes == []


async def test_somebody_elses_ca_is_never_overwritten(kube: MemoryKube, clock: Clock) -> None:
    theirs = issue_authority(now=clock(), life=DAY)
    data = {"ca.crt": theirs.certificate, "ca.key": theirs.key}
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    kube.put(SECRETS, SECRET, {"metadata": {}, "data": encoded})
    with pytest.raises(CannotManage, match="somebody else's data"):
        await Replica(kube, clock).manager.run()
    assert kube.writes == []


async def test_our_own_secret_is_known_without_its_label(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        before = replica.swap.pair
    kube.put(SECRETS, SECRET, {**secret(kube), "metadata": {}})
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        assert replica.swap.pair == before


async def test_foreign_keys_and_labels_of_our_secret_are_left_alone(
    kube: MemoryKube, clock: Clock
) -> None:
    labels = {"app.kubernetes.io/managed-by": "mpslice", "team": "gpu"}
    body = {"metadata": {"labels": labels}, "data": {"note": "eA=="}}
    kube.put(SECRETS, SECRET, body)
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        assert secret(kube)["metadata"]["labels"] == labels
        assert secret(kube)["data"]["note"] == "eA=="


@pytest.mark.parametrize("call", ["read secrets", "create secrets"])
async def test_without_permission_it_ends_at_once_and_says_what_to_grant(
    kube: MemoryKube, clock: Clock, call: str
) -> None:
    kube.faults[call] = Forbidden("secrets is forbidden", status=403)
    with pytest.raises(CannotManage, match="grant the service account get, create and patch"):
        await Replica(kube, clock).manager.run()


async def test_without_an_api_server_it_ends_at_once(kube: MemoryKube, clock: Clock) -> None:
    kube.faults["read mutatingwebhookconfigurations"] = Unreachable("connection refused")
    with pytest.raises(CannotManage, match="check that the API server can be reached"):
        await Replica(kube, clock).manager.run()


async def test_with_a_ca_of_another_time_it_ends_at_once_and_says_what_to_do(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
    kept = secret(kube)
    kept["data"] = {key: value for key, value in kept["data"].items() if key.startswith("ca")}
    clock.now -= 365 * DAY
    with pytest.raises(CannotManage, match=r"the CA is not valid yet; set this machine's clock"):
        await Replica(kube, clock).manager.run()


async def test_an_api_server_that_is_only_late_is_waited_for(
    kube: MemoryKube, clock: Clock
) -> None:
    replica = Replica(kube, clock, patience=60.0)
    kube.faults["read secrets"] = Unreachable("connection refused")
    async with replica.running():
        await asyncio.sleep(0)
        del kube.faults["read secrets"]
        await settled(kube, replica)


async def test_an_outage_later_on_is_waited_out(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        kube.faults["read secrets"] = Unreachable("connection refused")
        old = replica.swap.pair
        clock.now += 61 * DAY
        replica.manager._wake()
        await asyncio.sleep(0)
        assert replica.swap.pair == old
        del kube.faults["read secrets"]
        await settled_on_another(kube, old, replica)


async def test_a_configuration_that_the_chart_leaves_out_is_no_fault(
    kube: MemoryKube, clock: Clock
) -> None:
    kube.remove(VALIDATING_WEBHOOKS, "mpslice-workloads")
    async with Replica(kube, clock).running() as replica:

        async def trusted() -> bool:
            return ("secrets", SECRET) in kube.objects and all(
                base64.b64decode(hook["clientConfig"].get("caBundle", ""))
                for hook in kube.objects["mutatingwebhookconfigurations", "mpslice-pods"][
                    "webhooks"
                ]
            )

        await eventually(trusted, "the caBundle is written")
        assert replica.swap.pair is not None


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_whatever_the_order_of_events_no_replica_serves_what_a_bundle_does_not_trust(
    seed: int,
) -> None:
    """Three replicas with stale reads, a Secret spoilt or put back now and then, years of time.

    DESIGN.md, section 5: "No request fails during a rotation."
    """
    asyncio.run(_years(random.Random(seed)))


async def _years(dice: random.Random) -> None:
    kube, clock = new_kube(), Clock()
    kube.delays = lambda: dice.choice((0, 0, 1, 3, 12))
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(
                Replica(kube, clock, patience=60.0, authority_life=300 * DAY).running()
            )
            for _ in range(3)
        ]
        await settled(kube, *replicas)
        kube.after_write = lambda: _check(kube, clock, replicas)
        backups = []
        for _ in range(24):
            clock.now += dice.choice((1, 10, 25)) * DAY
            backups.append(secret(kube))
            if dice.random() < 0.1:
                kube.put(SECRETS, SECRET, dice.choice(backups))
            elif dice.random() < 0.2:
                now = secret(kube)
                kube.put(SECRETS, SECRET, {**now, "data": {**now["data"], "ca.key": "!"}})
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
                return next_step(state(kube), clock(), terms, spread=False) is None

            await eventually(at_rest, "nothing is due")


def _check(kube: MemoryKube, clock: Clock, replicas: list[Replica]) -> None:
    for replica in replicas:
        if replica.swap.expires is not None and replica.swap.expires > clock.now:
            assert all_trust(kube, replica)
