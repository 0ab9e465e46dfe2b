"""Replicas that only serve certificates, on a real API server, and a client that verifies them.

The client checks as API servers do, and with code of its own: nothing of `certs` judges itself.
"""

import asyncio
import base64
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from cryptography import x509

from certs.manager import CertificateManager, ManagerSettings
from certs.serving import HotSwap
from mpslice.flags import Address
from mpslice.kube.api import (
    MUTATING_WEBHOOKS,
    SECRETS,
    VALIDATING_WEBHOOKS,
    Json,
    Kube,
    PatchType,
    Resource,
)
from mpslice.kube.errors import NotFound
from tests.waiting import DEADLINE, eventually

NAMESPACES = Resource("v1", "namespaces")
SERVICE = "mpslice-webhook"
SECRET = "mpslice-webhook-tls"


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace and two webhook configurations of one test's own; `name` is that of each."""

    kube: Kube
    name: str

    @property
    def server_name(self) -> str:
        """The name by which API servers call the Service."""
        return f"{SERVICE}.{self.name}.svc"

    @property
    def settings(self) -> ManagerSettings:
        """What a replica here is told."""
        return ManagerSettings(
            namespace=self.name,
            service_name=SERVICE,
            secret_name=SECRET,
            cluster_domain="cluster.local",
            mutating_configurations=(self.name,),
            validating_configurations=(self.name,),
            propagation=0.5,
        )

    async def secret(self) -> Json | None:
        """The Secret, None while there is none."""
        with suppress(NotFound):
            return await self.kube.read(SECRETS, SECRET, namespace=self.name)
        return None

    async def bundles(self) -> list[bytes]:
        """The caBundle of every webhook, as the API server holds them right now."""
        found = []
        for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS):
            configuration = await self.kube.read(resource, self.name)
            found += [
                base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
                for webhook in configuration["webhooks"]
            ]
        return found

    async def empty_bundle(self, resource: Resource) -> None:
        """Does what a person does who clears the first webhook's caBundle."""
        patch = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
        await self.kube.patch(resource, self.name, patch, type=PatchType.JSON)


@asynccontextmanager
async def place(kube: Kube, name: str) -> AsyncIterator[Place]:
    """A place while inside; its webhooks match nothing, so that no request waits for them."""
    kinds = {
        MUTATING_WEBHOOKS: ("MutatingWebhookConfiguration", 2),
        VALIDATING_WEBHOOKS: ("ValidatingWebhookConfiguration", 1),
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await kube.create(NAMESPACES, namespace)
    try:
        for resource, (kind, count) in kinds.items():
            await kube.create(resource, _configuration(kind, name, count))
        yield Place(kube, name)
    finally:
        for resource in kinds:
            with suppress(NotFound):
                await kube.delete(resource, name)
        await kube.delete(NAMESPACES, name)


def _configuration(kind: str, name: str, count: int) -> Json:
    rule = {
        "apiGroups": ["nobody.example"],
        "apiVersions": ["v1"],
        "resources": ["*"],
        "operations": ["CREATE"],
    }
    webhooks = [
        {
            "name": f"webhook-{index}.{name}.example",
            "clientConfig": {"service": {"namespace": name, "name": SERVICE, "path": "/"}},
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        for index in range(count)
    ]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "webhooks": webhooks,
    }


@dataclass(frozen=True, slots=True)
class Replica:
    """One manager with the port that it serves; `task` is its `run`."""

    manager: CertificateManager
    hot_swap: HotSwap
    address: Address
    task: "asyncio.Task[None]"

    async def is_ready(self) -> bool:
        if self.task.done():
            self.task.result()
        return not self.manager.not_ready()

    async def ready(self, seconds: float = DEADLINE) -> None:
        """Waits until the manager says that the API server would trust it."""
        await eventually(self.is_ready, "the replica is ready", seconds=seconds)


@asynccontextmanager
async def replica(place: Place, kube: Kube | None = None, **changes: Any) -> AsyncIterator[Replica]:
    """A replica while inside; `changes` are of its ManagerSettings."""
    hot_swap = HotSwap()
    server = await asyncio.start_server(_close, "127.0.0.1", 0, ssl=hot_swap.context)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    settings = replace(place.settings, **changes)
    manager = CertificateManager(kube or place.kube, settings, hot_swap)
    task = asyncio.ensure_future(manager.run())
    try:
        yield Replica(manager, hot_swap, address, task)
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=DEADLINE)
        server.close()


async def _close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@dataclass(slots=True)
class Tally:
    """What a verifying client met: handshakes by the serial of the leaf and its issuer's name."""

    leaves: Counter[int] = field(default_factory=Counter)
    issuers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def handshakes(self) -> int:
        return self.leaves.total()


@asynccontextmanager
async def verifying(place: Place, replicas: Iterable[Replica]) -> AsyncIterator[Tally]:
    """Handshakes with every replica against every caBundle in place, all the time while inside.

    At least one whole round is made, however short the body is.
    """
    tally, stop = Tally(), asyncio.Event()
    task = asyncio.ensure_future(_verify(place, tuple(replicas), tally, stop))
    try:
        yield tally
    finally:
        stop.set()
        await task


async def _verify(
    place: Place, replicas: tuple[Replica, ...], tally: Tally, stop: asyncio.Event
) -> None:
    while True:
        for pem in set(await place.bundles()):
            for one in replicas:
                await _handshake(one.address, place.server_name, pem, tally)
        if stop.is_set():
            return


async def _handshake(address: Address, name: str, pem: bytes, tally: Tally) -> None:
    try:
        leaf = await handshake(address, name, pem)
    except (ssl.SSLError, OSError, TimeoutError, ValueError) as error:
        tally.failures.append(f"{address}: {type(error).__name__} {error}")
        return
    tally.leaves[leaf.serial_number] += 1
    tally.issuers[leaf.issuer.rfc4514_string()] += 1


async def handshake(address: Address, name: str, pem: bytes) -> x509.Certificate:
    """The leaf that is served under `name`; raises what `ssl` raises when it does not verify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=pem.decode("ascii"))
    async with asyncio.timeout(DEADLINE):
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname=name
        )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der)


def short_lives(authority: float, leaf: float, propagation: float) -> dict[str, Any]:
    """Changes of the settings, in seconds."""
    return {
        "authority_life": timedelta(seconds=authority),
        "leaf_life": timedelta(seconds=leaf),
        "propagation": propagation,
    }
