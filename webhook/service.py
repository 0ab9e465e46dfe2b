"""The webhook as a process: the two ports, the certificate, the largest GPU, and an orderly end.

Background work may fail and be tried again; the request path needs none of it.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from certs.serving import HotSwap
from mpslice.flags import Address
from mpslice.kube.session import Session
from mpslice.ops import Readiness, serve_ops
from webhook.admission import Admission
from webhook.certificate import Source, certificate
from webhook.gpus import LargestGpu
from webhook.listener import Limits, listening
from webhook.metrics import Metrics
from webhook.settings import Settings

_STARTING: Final = "starting"
_STOPPING: Final = "shutting down"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the process needs besides the policy; `shutdown_delay` in seconds."""

    policy: Settings
    listen: Address
    ops_listen: Address
    certificate: Source
    standalone: bool = False
    kubeconfig: str | None = None
    shutdown_delay: float = 10.0
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class _State:
    """What /readyz answers from; `certificate` says why the certificate is not ready."""

    certificate: Readiness = lambda: _STARTING
    stopping: bool = False

    def not_ready(self) -> str:
        return _STOPPING if self.stopping else self.certificate()


async def serve(settings: ServiceSettings) -> None:
    """Runs until cancelled, then stops in order. Raises an MpsliceError when it cannot go on."""
    largest, state, hot_swap = LargestGpu(), _State(), HotSwap()
    metrics = Metrics(lambda: hot_swap.expires)
    admission = Admission(settings.policy, metrics, largest.get)
    async with AsyncExitStack() as stack:
        kube = await _session(stack, settings)
        ops = serve_ops(settings.ops_listen, metrics.registry, state.not_ready)
        await stack.enter_async_context(ops)
        port = listening(settings.listen, hot_swap.context, admission.handle, settings.limits)
        address = await stack.enter_async_context(port)
        upkeep = certificate(settings.certificate, kube, hot_swap, address)
        state.certificate = upkeep.not_ready
        await stack.enter_async_context(_orderly_end(admission, state, settings.shutdown_delay))
        _spare_the_collector()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upkeep.run)
            await upkeep.started.wait()
            log.info("serving", extra={"address": str(address)})
            if kube is not None:
                tasks.create_task(largest.follow(kube))


def _spare_the_collector() -> None:
    """A review is hundreds of objects without a cycle: looking for one each time is for nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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
