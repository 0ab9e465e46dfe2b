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
from mpslice.flags import Address
from mpslice.kube.api import MUTATING_WEBHOOKS
from mpslice.kube.errors import Unreachable
from mpslice.ops import open_port
from tests.certs.memory_kube import MemoryKube
from tests.waiting import eventually

NAME = "w.n.svc"
NOW = datetime.now(UTC)
AUTHORITY = issue_authority(now=NOW - timedelta(days=5), life=timedelta(days=14))
STRANGER = issue_authority(now=NOW, life=timedelta(days=9))


def leaf(authority: Pair, name: str = NAME, now: datetime = NOW) -> Pair:
    return issue_leaf(authority, (name,), now=now, life=timedelta(days=1))


def configure(kube: MemoryKube, *bundles: bytes) -> None:
    hooks = [
        {"name": str(i), "clientConfig": {"caBundle": base64.b64encode(bundle).decode()}}
        for i, bundle in enumerate(bundles)
    ]
    kube.put(MUTATING_WEBHOOKS, "mpslice-pods", {"metadata": {}, "webhooks": hooks})


@asynccontextmanager
async def watching(kube: MemoryKube, served: Pair, host: str = "127.0.0.1") -> AsyncIterator[Trust]:
    swap = HotSwap()
    swap.serve(served)
    connections: set[asyncio.StreamWriter] = set()
    server = await asyncio.start_server(
        lambda _reader, writer: connections.add(writer),
        sock=open_port("--listen", Address(host, 0)),
        ssl=swap.context,
    )
    address = Address(host, server.sockets[0].getsockname()[1])
    trust = Trust(kube, targets(["mpslice-pods"], []), NAME, address)
    task = asyncio.create_task(trust.run())
    try:
        yield trust
    finally:
        task.cancel()
        server.close()
        for connection in connections:
            connection.transport.abort()
        await asyncio.gather(task, return_exceptions=True)


async def says(trust: Trust, text: str) -> None:
    async def said() -> bool:
        reason = trust.not_ready()
        return text in reason if text else not reason

    trust.wake()
    await eventually(said, f"readiness says {text!r}, not {trust.not_ready()!r}")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
async def test_ready_when_every_bundle_trusts_the_served_certificate(host: str) -> None:
    kube = MemoryKube()
    configure(kube, AUTHORITY.certificate, STRANGER.certificate + AUTHORITY.certificate)
    async with watching(kube, leaf(AUTHORITY), host) as trust:
        assert trust.not_ready()
        await says(trust, "")


async def test_not_ready_while_a_single_bundle_trusts_another_ca() -> None:
    kube = MemoryKube()
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
    kube = MemoryKube()
    configure(kube, AUTHORITY.certificate)
    async with watching(kube, served) as trust:
        await says(trust, why)


async def test_not_ready_without_a_bundle_and_without_a_configuration() -> None:
    kube = MemoryKube()
    configure(kube, b"")
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "the caBundle is empty")
        kube.remove(MUTATING_WEBHOOKS, "mpslice-pods")
        await says(trust, "there is none of the webhook configurations")


async def test_an_outage_of_the_api_server_does_not_take_readiness_away() -> None:
    kube = MemoryKube()
    configure(kube, AUTHORITY.certificate)
    async with watching(kube, leaf(AUTHORITY)) as trust:
        await says(trust, "")
        kube.faults["read mutatingwebhookconfigurations"] = Unreachable("connection refused")
        trust._reason = "asked again"  # so that the next look can be waited for
        await says(trust, "")


async def test_not_ready_when_nobody_answers_at_our_own_address() -> None:
    kube = MemoryKube()
    configure(kube, AUTHORITY.certificate)
    trust = Trust(kube, targets(["mpslice-pods"], []), NAME, Address("127.0.0.1", 1))
    task = asyncio.create_task(trust.run())
    await says(trust, "no handshake with ourselves: ")
    task.cancel()
