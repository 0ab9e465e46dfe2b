"""Managers on an API server in memory, on a clock that the test moves, and what is true of them."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from certs.errors import BrokenSecret
from certs.issue import is_issued_by, load_bundle
from certs.manager import CertificateManager, ManagerSettings
from certs.serving import HotSwap
from certs.state import State, decode
from mpslice.kube.api import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS, Json
from tests.certs.memory_kube import MemoryKube
from tests.waiting import eventually

SECRET = "mpslice-webhook-tls"
NAMESPACE = "mpslice-system"
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
            namespace=NAMESPACE,
            service_name="mpslice-webhook",
            secret_name=SECRET,
            cluster_domain="cluster.local",
            mutating_configurations=("mpslice-pods",),
            validating_configurations=("mpslice-pods", "mpslice-workloads"),
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


def new_kube(clock: Clock) -> MemoryKube:
    kube = MemoryKube(clock)
    for resource, name in CONFIGURATIONS:
        hooks = [{"name": f"{i}.{name}", "clientConfig": {"service": {}}} for i in range(2)]
        kube.put(resource, name, {"metadata": {}, "webhooks": hooks})
    return kube


def secret(kube: MemoryKube) -> Json:
    return kube.api.get(SECRETS, SECRET, NAMESPACE)


def put_secret(kube: MemoryKube, body: Json) -> None:
    """Writes the Secret as somebody else would; the API server notes when."""
    fields = [{"manager": "somebody", "time": kube.stamp()}]
    metadata = {**body["metadata"], "managedFields": fields}
    kube.put(SECRETS, SECRET, {**body, "metadata": metadata}, NAMESPACE)


def state(kube: MemoryKube) -> State:
    return decode(secret(kube)["data"])


def bundles(kube: MemoryKube) -> set[bytes]:
    found = set()
    for resource, name in CONFIGURATIONS:
        for hook in kube.api.get(resource, name)["webhooks"]:
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
        if not kube.api.has(SECRETS, SECRET, NAMESPACE):
            return False
        try:
            now = state(kube)
        except BrokenSecret:
            return False
        wanted = load_bundle(now.bundle)
        return all(r.swap.pair == now.leaf for r in replicas) and all(
            load_bundle(bundle) == wanted for bundle in bundles(kube)
        )

    await eventually(all_agree, "Secret, caBundles and served certificates agree")


async def settled_on_another(kube: MemoryKube, old: object, *replicas: Replica) -> None:
    async def changed() -> bool:
        return all(replica.swap.pair != old for replica in replicas)

    await eventually(changed, "another certificate is served")
    await settled(kube, *replicas)


def check_trust(kube: MemoryKube, clock: Clock, replicas: list[Replica]) -> None:
    for replica in replicas:
        if replica.swap.expires is not None and replica.swap.expires > clock.now:
            assert all_trust(kube, replica)
