"""Where the serving certificate comes from, and how we know that it is trusted.

Apart from the service, because each of the three sources has its own upkeep and readiness.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from certs.files import FileWatcher
from certs.injection import targets
from certs.issue import issue_authority, issue_leaf
from certs.manager import CertificateManager, ManagerSettings
from certs.readiness import Trust
from certs.serving import HotSwap
from mpslice.kube.api import Kube
from mpslice.ops import Readiness

_THROWAWAY_LIFE: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Names:
    """The Service that API servers call, and the webhook configurations that lead to it."""

    namespace: str = "mpslice-system"
    service_name: str = "mpslice-webhook"
    cluster_domain: str = "cluster.local"
    mutating_configurations: tuple[str, ...] = ("mpslice-pods",)
    validating_configurations: tuple[str, ...] = ("mpslice-pods", "mpslice-workloads")

    @property
    def dns_name(self) -> str:
        """What API servers verify the certificate against."""
        return f"{self.service_name}.{self.namespace}.svc"


@dataclass(frozen=True, slots=True)
class Files:
    """A chain and its key, PEM files that somebody else renews."""

    certificate: str
    key: str
    names: Names


@dataclass(frozen=True, slots=True)
class Managed:
    """Issued and renewed by us, kept in a Secret; `propagation` in seconds."""

    secret_name: str
    names: Names
    authority_life: timedelta
    leaf_life: timedelta
    propagation: float


@dataclass(frozen=True, slots=True)
class Throwaway:
    """Signed by a CA that nobody has: for `--standalone` without files, to try things out."""

    names: Names


Source = Files | Managed | Throwaway


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What keeps the certificate fresh, and what tells whether it is ready.

    `started` is set once the first look at the certificate went well.
    """

    run: Coroutine[Any, Any, None]
    not_ready: Readiness
    started: asyncio.Event


def certificate(source: Source, kube: Kube | None, hot_swap: HotSwap) -> Upkeep:
    """The upkeep of a certificate that `hot_swap` serves.

    `kube` is None without a cluster. Raises UnusableCertificate.
    """
    if isinstance(source, Files):
        return _files(source, kube, hot_swap)
    if isinstance(source, Managed) and kube is not None:
        return _managed(source, kube, hot_swap)
    now = datetime.now(UTC)
    authority = issue_authority(now=now, life=_THROWAWAY_LIFE)
    names = (source.names.dns_name, "localhost")
    hot_swap.serve(issue_leaf(authority, names, now=now, life=_THROWAWAY_LIFE))
    return Upkeep(_nothing(), _ready, _set())


def _files(source: Files, kube: Kube | None, hot_swap: HotSwap) -> Upkeep:
    watcher = FileWatcher(source.certificate, source.key, hot_swap)
    watcher.load()
    if kube is None:
        return Upkeep(watcher.run(), _ready, _set())
    names = source.names
    ours = targets(names.mutating_configurations, names.validating_configurations)
    trust = Trust(kube, ours, names.dns_name, hot_swap.context)
    return Upkeep(_together(watcher.run(), trust.run()), trust.not_ready, _set())


def _managed(source: Managed, kube: Kube, hot_swap: HotSwap) -> Upkeep:
    names = source.names
    settings = ManagerSettings(
        namespace=names.namespace,
        service_name=names.service_name,
        secret_name=source.secret_name,
        cluster_domain=names.cluster_domain,
        mutating_configurations=names.mutating_configurations,
        validating_configurations=names.validating_configurations,
        authority_life=source.authority_life,
        leaf_life=source.leaf_life,
        propagation=source.propagation,
    )
    manager = CertificateManager(kube, settings, hot_swap)
    return Upkeep(manager.run(), manager.not_ready, manager.started)


def _ready() -> str:
    return ""


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _nothing() -> None:
    """A throwaway certificate needs no upkeep."""
    await asyncio.Event().wait()


async def _together(*work: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for part in work:
            tasks.create_task(part)
