"""What people do to the Secret and the caBundles of a real cluster is mended without an outage."""

import asyncio
import base64
from collections.abc import Callable

import pytest
from cryptography import x509

from mpslice.kube.api import (
    MUTATING_WEBHOOKS,
    SECRETS,
    VALIDATING_WEBHOOKS,
    Json,
    PatchType,
    Resource,
)
from tests.certs.replicas import SECRET, Place, replica, verifying
from tests.waiting import eventually


def _garbage(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        dict.fromkeys,
        lambda data: {key: None for key in data if key.endswith(".key")},
        lambda data: {"tls.crt": data["tls.crt"][:400]},
        lambda data: {"tls.key": _garbage("no key at all")},
        lambda data: dict.fromkeys(data, _garbage("nonsense")),
    ],
    ids=["emptied", "keys-gone", "half-a-certificate", "wrong-key", "nonsense"],
)
async def test_broken_secret_is_repaired_without_a_failed_handshake(
    here: Place, spoil: Callable[[Json], Json]
) -> None:
    async with replica(here) as one, replica(here) as two:
        await one.ready()
        await two.ready()
        async with verifying(here, (one, two)) as tally:
            secret = await here.secret()
            assert secret is not None
            await here.kube.patch(
                SECRETS,
                SECRET,
                {"data": spoil(secret["data"])},
                type=PatchType.MERGE,
                namespace=here.name,
            )
            await eventually(lambda: _is_whole(here), "the Secret is whole again")
            # A chain that was swapped in later must not fail either.
            await asyncio.gather(one.ready(), two.ready())
        async with replica(here) as third:
            await third.ready()
    assert not tally.failures, tally.failures[:5]


async def _is_whole(here: Place) -> bool:
    """Whether tls.crt verifies against what the caBundles hold, and has its key."""
    data = ((await here.secret()) or {}).get("data") or {}
    try:
        leaf = x509.load_pem_x509_certificate(base64.b64decode(data.get("tls.crt") or ""))
        keyed = b"PRIVATE KEY" in base64.b64decode(data.get("tls.key") or "")
    except ValueError:
        return False
    for pem in await here.bundles():
        names = [ca.subject for ca in x509.load_pem_x509_certificates(pem)]
        if leaf.issuer not in names:
            return False
    return keyed


async def test_deleted_secret_is_made_again_without_a_failed_handshake(here: Place) -> None:
    async with replica(here) as one, replica(here) as two:
        await one.ready()
        await two.ready()
        async with verifying(here, (one, two)) as tally:
            await here.kube.delete(SECRETS, SECRET, namespace=here.name)
            await eventually(lambda: _is_whole(here), "there is a Secret again")
        async with replica(here) as third:
            await third.ready()
    assert not tally.failures, tally.failures[:5]


@pytest.mark.parametrize(
    "resource", [MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS], ids=lambda resource: resource.plural
)
async def test_emptied_ca_bundle_is_filled_again(here: Place, resource: Resource) -> None:
    async with replica(here) as one:
        await one.ready()
        before = await here.bundles()
        await here.empty_bundle(resource)

        async def filled() -> bool:
            return await here.bundles() == before

        await eventually(filled, "the caBundle is back", seconds=5)
        await one.ready()


async def test_configuration_that_is_made_anew_gets_the_ca_bundle(here: Place) -> None:
    async with replica(here) as one:
        await one.ready()
        before = await here.bundles()
        made = await here.kube.read(VALIDATING_WEBHOOKS, here.name)
        await here.kube.delete(VALIDATING_WEBHOOKS, here.name)
        del made["webhooks"][0]["clientConfig"]["caBundle"]
        made["metadata"] = {"name": here.name}
        await here.kube.create(VALIDATING_WEBHOOKS, made)

        async def filled() -> bool:
            return await here.bundles() == before

        await eventually(filled, "the caBundle is back", seconds=5)
