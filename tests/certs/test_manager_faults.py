"""What is spoilt, lost, put back, foreign or away: mended where it is ours, else told."""

import asyncio
import base64
from datetime import timedelta

import pytest

from certs.errors import CannotManage
from certs.issue import issue_authority, load_bundle, load_certificate
from certs.rotation import Step, take
from certs.state import decode, encode
from mpslice.kube.api import MUTATING_WEBHOOKS, SECRETS
from mpslice.kube.errors import ApiError, Forbidden, KubeError, Unreachable
from tests.certs.memory_kube import MemoryKube
from tests.certs.memory_replicas import (
    DAY,
    NAMESPACE,
    SECRET,
    Clock,
    Replica,
    all_trust,
    bundles,
    check_trust,
    put_secret,
    secret,
    settled,
    settled_on_another,
    state,
)
from tests.waiting import eventually


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
        kube.api.remove(SECRETS, SECRET, NAMESPACE)
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
        put_secret(kube, spoilt)

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
    put_secret(kube, spoilt)
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
        put_secret(kube, {**secret(kube), "data": encode(fresh)})

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
        kube.after_change = lambda: check_trust(kube, clock, [one, two])
        put_secret(kube, old)
        await settled_on_another(kube, one.swap.pair, one, two)


async def test_somebody_elses_secret_is_never_overwritten(kube: MemoryKube, clock: Clock) -> None:
    put_secret(kube, {"metadata": {}, "data": {"password": "eA=="}})
    with pytest.raises(CannotManage, match=r"somebody else's data.*--tls-secret"):
        await Replica(kube, clock).manager.run()
    assert kube.writes == []


async def test_somebody_elses_ca_is_never_overwritten(kube: MemoryKube, clock: Clock) -> None:
    theirs = issue_authority(now=clock(), life=DAY)
    data = {"ca.crt": theirs.certificate, "ca.key": theirs.key}
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    put_secret(kube, {"metadata": {}, "data": encoded})
    with pytest.raises(CannotManage, match="somebody else's data"):
        await Replica(kube, clock).manager.run()
    assert kube.writes == []


async def test_our_own_secret_is_known_without_its_label(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        before = replica.swap.pair
    put_secret(kube, {**secret(kube), "metadata": {}})
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        assert replica.swap.pair == before


async def test_foreign_keys_and_labels_of_our_secret_are_left_alone(
    kube: MemoryKube, clock: Clock
) -> None:
    labels = {"app.kubernetes.io/managed-by": "mpslice", "team": "gpu"}
    body = {"metadata": {"labels": labels}, "data": {"note": "eA=="}}
    put_secret(kube, body)
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        assert secret(kube)["metadata"]["labels"] == labels
        assert secret(kube)["data"]["note"] == "eA=="


@pytest.mark.parametrize("call", ["get secrets", "create secrets"])
async def test_without_permission_it_ends_and_says_what_to_grant(
    kube: MemoryKube, clock: Clock, call: str
) -> None:
    kube.faults[call] = Forbidden("secrets is forbidden", status=403)
    with pytest.raises(CannotManage, match="grant the service account get, create and patch"):
        await Replica(kube, clock).manager.run()


async def test_without_an_api_server_it_ends_at_once(kube: MemoryKube, clock: Clock) -> None:
    kube.faults["get mutatingwebhookconfigurations"] = Unreachable("connection refused")
    with pytest.raises(CannotManage, match="check that the API server can be reached"):
        await Replica(kube, clock).manager.run()


async def test_a_ca_that_ends_at_once_signs_nothing_and_says_what_to_do(
    kube: MemoryKube, clock: Clock
) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
    kept = secret(kube)
    kept["data"] = {key: value for key, value in kept["data"].items() if key.startswith("ca")}
    put_secret(kube, kept)
    clock.now += 1825 * DAY - timedelta(seconds=1)
    with pytest.raises(CannotManage, match=r"ends too soon .*; set this machine's clock"):
        await Replica(kube, clock).manager.run()


@pytest.mark.parametrize(
    "fault",
    [
        Unreachable("connection refused"),
        Forbidden("secrets is forbidden", status=403),
        ApiError("Unauthorized", status=401),
    ],
)
async def test_an_api_server_that_is_only_late_is_waited_for(
    kube: MemoryKube, clock: Clock, fault: KubeError
) -> None:
    """One that has just started knows neither accounts nor roles for a moment."""
    replica = Replica(kube, clock, patience=60.0)
    kube.faults["get secrets"] = fault
    async with replica.running():
        await asyncio.sleep(0)
        del kube.faults["get secrets"]
        await settled(kube, replica)


async def test_an_outage_later_on_is_waited_out(kube: MemoryKube, clock: Clock) -> None:
    async with Replica(kube, clock).running() as replica:
        await settled(kube, replica)
        kube.faults["get secrets"] = Unreachable("connection refused")
        old = replica.swap.pair
        clock.now += 61 * DAY
        replica.manager._wake()
        await asyncio.sleep(0)
        assert replica.swap.pair == old
        del kube.faults["get secrets"]
        await settled_on_another(kube, old, replica)
