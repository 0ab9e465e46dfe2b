"""The webhook as a process: the two ports, the certificate, the largest GPU, and an orderly end.

Background work may fail and be tried again; the request path needs none of it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from certs.files import ClientAuthorityWatcher
from certs.serving import HotSwap
from mpslice.flags import Address
from mpslice.kube.session import Session
from mpslice.ops import Readiness, serve_ops
from mpslice.ports import open_port
from mpslice.server import Limits, serving
from webhook.admission import Admission
from webhook.certificate import Source, certificate
from webhook.gpus import LargestGpu
from webhook.metrics import Metrics
from webhook.settings import Settings

_STARTING: Final = "starting"
_STOPPING: Final = "shutting down"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the process needs besides the policy; `shutdown_delay` in seconds.

    `client_ca_file` holds the CA certificates of those that may connect, None where anybody may;
    `client_names` are the common names that may, () for all of that CA.
    """

    policy: Settings
    listen: Address
    ops_listen: Address
    certificate: Source
    standalone: bool = False
    kubeconfig: str | None = None
    shutdown_delay: float = 10.0
    client_ca_file: str | None = None
    client_names: tuple[str, ...] = ()


@dataclass(slots=True)
class _State:
    """What /readyz answers from; `certificate` says why the certificate is not ready."""

    certificate: Readiness = lambda: _STARTING
    stopping: bool = False

    def not_ready(self) -> str:
        return _STOPPING if self.stopping else self.certificate()


async def serve(settings: ServiceSettings) -> None:
    """Runs until cancelled, then stops in order. Raises an MpsliceError when it cannot go on."""
    largest, state = LargestGpu(), _State()
    hot_swap = HotSwap(asks_clients=settings.client_ca_file is not None)
    metrics = Metrics(lambda: hot_swap.expires)
    names = settings.client_names
    admission = Admission(settings.policy, metrics, largest.get, client_names=names)
    async with AsyncExitStack() as stack:
        kube = await _session(stack, settings)
        ops = serve_ops(settings.ops_listen, metrics.registry, state.not_ready)
        await stack.enter_async_context(ops)
        port = open_port("--listen", settings.listen)
        address = Address(settings.listen.host, port.getsockname()[1])
        clients = _clients(settings, hot_swap)
        await stack.enter_async_context(serving(port, admission.handle, Limits(), hot_swap.context))
        upkeep = certificate(settings.certificate, kube, hot_swap)
        state.certificate = upkeep.not_ready
        await stack.enter_async_context(_orderly_end(admission, state, settings.shutdown_delay))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upkeep.run)
            if clients is not None:
                tasks.create_task(clients.run())
            await upkeep.started.wait()
            log.info("serving", extra={"address": str(address)})
            if kube is not None:
                tasks.create_task(largest.follow(kube))


def _clients(settings: ServiceSettings, hot_swap: HotSwap) -> ClientAuthorityWatcher | None:
    if settings.client_ca_file is None:
        return None
    watcher = ClientAuthorityWatcher(settings.client_ca_file, hot_swap)
    watcher.load()
    return watcher


async def _session(stack: AsyncExitStack, settings: ServiceSettings) -> Session | None:
    if settings.standalone:
        return None
    session = await Session.connect("webhook", settings.kubeconfig)
    return await stack.enter_async_context(session)


@asynccontextmanager
async def _orderly_end(admission: Admission, state: _State, delay: float) -> AsyncIterator[None]:
    """When cancelled: unready at once, and still serving for `delay` seconds.

    So long it may take until every API server has seen that the endpoint is gone. A second signal
    cuts it short.
    """
    try:
        yield
    except asyncio.CancelledError:
        state.stopping = admission.draining = True
        log.info("shutting down", extra={"serving_on_for_seconds": delay})
        await asyncio.sleep(delay)
        raise
