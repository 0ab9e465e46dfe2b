"""Readiness is a verified handshake with ourselves, against what the API server really holds."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from certs.injection import targets
from certs.issue import Pair, issue_authority, issue_leaf
from certs.readiness import Trust
from certs.serving import HotSwap
from mpslice.kube.api import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, Resource
from mpslice.kube.errors import Unreachable
from tests.certs.memory_kube import MemoryKube
from tests.waiting import eventually

NAME = "w.n.svc"
NOW = datetime.now(UTC)
AUTHORITY = issue_authority(now=NOW - timedelta(days=5), life=timedelta(days=14))
STRANGER = issue_authority(now=NOW, life=timedelta(days=9))


def leaf(authority: Pair, name: str = NAME, now: datetime = NOW) -> Pair:
    return issue_leaf(authority, (name,), now=now, life=timedelta(days=1))


def configure(
    kube: MemoryKube, *bundles: bytes, policy: str = "Fail", resource: Resource = MUTATING_WEBHOOKS
) -> None:
    hooks = [
        {
            "name": str(i),
            "failurePolicy": policy,
            "clientConfig": {"caBundle": base64.b64encode(bundle).decode()},
        }
        for i, bundle in enumerate(bundles)
    ]
    kube.put(resource, "mpslice-pods", {"metadata": {}, "webhooks": hooks})


@asynccontextmanager
async def watching(kube: MemoryKube, served: Pair | None) -> AsyncIterator[Trust]:
    swap = HotSwap()
    if served is not None:
        swap.serve(served)
    trust = Trust(kube, targets(["mpslice-pods"], ["mpslice-pods"]), NAME, swap.context)
    task = asyncio.create_task(trust.run())
    try:
        yield trust
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def says(trust: Trust, text: str) -> None:
    async def said() -> bool:
        reason = trust.not_ready()
        return text in reason if text else not reason

    trust.wake()
    await eventually(said, f"readiness says {text!r}, not {trust.not_ready()!r}")


async def test_ready_when_every_bundle_trusts_the_served_certificate() -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, AUTHORITY.certificate, STRANGER.certificate + AUTHORITY.certificate)
    async with watching(kube, leaf(AUTHORITY)) as trust:
        assert trust.not_ready()
        await says(trust, "")


async def test_not_ready_while_a_single_bundle_trusts_another_ca() -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, AUTHORITY.certificate, STRANGER.certificate)
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "mpslice-pods: our certificate does not verify")
        configure(kube, AUTHORITY.certificate)
        await says(trust, "")


@pytest.mark.parametrize(
    ("served", "why"),
    [
        (leaf(AUTHORITY, now=NOW - timedelta(days=2)), "expired"),
        (leaf(AUTHORITY, name="other.n.svc"), "does not verify"),
    ],
    ids=["expired", "for another name"],
)
async def test_not_ready_with_a_certificate_that_a_client_would_refuse(
    served: Pair, why: str
) -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, AUTHORITY.certificate)
    async with watching(kube, served) as trust:
        await says(trust, why)


async def test_not_ready_without_a_bundle_and_without_a_configuration() -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, b"")
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "the caBundle is empty")
        kube.api.remove(MUTATING_WEBHOOKS, "mpslice-pods")
        await says(trust, "there is none of the webhook configurations")


async def test_an_outage_of_the_api_server_does_not_take_readiness_away() -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, AUTHORITY.certificate)
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "")
        kube.faults["get mutatingwebhookconfigurations"] = Unreachable("connection refused")
        trust._reason = "asked again"  # so that the next look can be waited for
        await says(trust, "")


async def test_not_ready_without_a_certificate() -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, AUTHORITY.certificate)
    async with watching(kube, None) as trust:
        await says(trust, "no handshake with ourselves: ")


@pytest.mark.parametrize("bundle", [b"", STRANGER.certificate], ids=["empty", "another CA"])
async def test_a_webhook_that_fails_open_is_told_of_and_takes_no_readiness_away(
    bundle: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, AUTHORITY.certificate)
    configure(kube, bundle, policy="Ignore", resource=VALIDATING_WEBHOOKS)
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "")
        told = [r for r in caplog.records if "fails open" in r.message]
        assert len(told) == 1
        configure(kube, STRANGER.certificate)
        await says(trust, "mpslice-pods: our certificate does not verify")


async def test_where_every_webhook_fails_open_one_that_trusts_us_makes_us_ready() -> None:
    kube = MemoryKube(lambda: NOW)
    configure(kube, b"", policy="Ignore")
    configure(kube, STRANGER.certificate, policy="Ignore", resource=VALIDATING_WEBHOOKS)
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "the caBundle is empty")
        configure(kube, AUTHORITY.certificate, policy="Ignore", resource=VALIDATING_WEBHOOKS)
        await says(trust, "")
