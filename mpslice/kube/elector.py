"""Leader election on a Lease: at most one replica works, and a dead one is replaced in seconds.

Safe by these rules: time is measured on the monotonic clock and from before a renewal was sent;
whatever goes wrong is a failed renewal; work is cancelled and awaited before the lease can expire.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from mpslice.kube.api import LEASES, Json, Kube
from mpslice.kube.errors import Conflict, KubeError, NotFound

TO_NEXT_LEADER: Final = "mpslice.io/to-next-leader"
"""Annotation of the Lease: what the next leader has to know."""

log = logging.getLogger(__name__)

Work = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A dead leader is replaced after `lease` and at most one `retry`: the last renewal
    is seen so much later.

    `renew_within` is how long after its last renewal a leader goes on working; the rest of the
    lease is the margin in which it has to stop. It renews a `retry` after its last renewal, so that
    a renewal may take what is left of `renew_within`, and a busy API server takes seconds.
    """

    lease: float = 8.0
    renew_within: float = 6.0
    retry: float = 1.0


@dataclass(slots=True)
class _Seen:
    """The lease as last read, and when it was first read like that (monotonic seconds)."""

    record: Json = field(default_factory=dict)
    since: float = float("-inf")


class Elector:
    """Runs work while holding the Lease `namespace/name` as `identity`.

    `message` says what the next leader has to know of this one; "" is nothing. It goes with every
    renewal into the Lease's annotation `mpslice.io/to-next-leader`.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        message: Callable[[], str] = str,
    ) -> None:
        self.leading = False
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock
        self._message = message
        self._seen = _Seen()
        self._lease: Json | None = None

    @property
    def holder(self) -> str:
        """The identity that last was seen to hold the lease; "" when nobody did."""
        return str(self._seen.record.get("holderIdentity") or "")

    async def run(self, work: Work) -> None:
        """Waits for the lease, then works; again after losing it. Returns when the work returns.

        The work gets the message of the leader before. An error of the work ends the run, so that
        nobody renews for a worker that is gone.
        """
        while True:
            renewed = await self._acquire()
            self.leading = True
            log.info("leading", extra={"lease": self._name, "identity": self._identity})
            try:
                if await self._lead(work, renewed):
                    return
            finally:
                self.leading = False
            log.warning("lost the lease", extra={"lease": self._name})

    async def _acquire(self) -> float:
        while True:
            started = self._clock()
            if await self._try_to_hold(started, self._timing.renew_within):
                return started
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        """Until the next attempt: not past the moment at which the other's lease expires."""
        left = self._seen.since + self._duration() - self._clock()
        return min(self._timing.retry, left) if left > 0 else self._timing.retry

    def _duration(self) -> float:
        return float(self._seen.record.get("leaseDurationSeconds") or self._timing.lease)

    async def _lead(self, work: Work, renewed: float) -> bool:
        """Whether the work came to its end; False when the lease was lost first."""
        annotations = ((self._lease or {}).get("metadata") or {}).get("annotations") or {}
        task = asyncio.ensure_future(work(str(annotations.get(TO_NEXT_LEADER) or "")))
        try:
            while True:
                # No attempt may last beyond the point at which the work has to stop.
                left = renewed + self._timing.renew_within - self._clock()
                await asyncio.wait({task}, timeout=min(self._timing.retry, max(0.0, left)))
                if task.done():
                    task.result()
                    return True
                started = self._clock()
                left = renewed + self._timing.renew_within - started
                if left <= 0:
                    return False
                if await self._try_to_hold(started, left):
                    renewed = started
                elif self._is_anothers():
                    return False
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self._release()

    async def _try_to_hold(self, started: float, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._hold(started)
        except (KubeError, TimeoutError) as error:
            log.warning(
                "the lease could not be renewed", extra={"lease": self._name, "error": str(error)}
            )
            return False

    async def _hold(self, started: float) -> bool:
        # One request, not two, while nobody else has written: where the API server is slow, that
        # is what the lease is lost by.
        if self.leading and self._lease is not None and await self._write(self._lease):
            return True
        try:
            lease = await self._kube.read(LEASES, self._name, namespace=self._namespace)
        except NotFound:
            return await self._write(None)
        record = dict(lease.get("spec") or {})
        if record != self._seen.record:
            # From when it was read: another's renewal may be as young as the answer.
            self._seen = _Seen(record, self._clock())
        holder = record.get("holderIdentity") or ""
        expired = started - self._seen.since >= self._duration()
        if holder in ("", self._identity) or expired:
            return await self._write(lease)
        return False

    async def _write(self, lease: Json | None) -> bool:
        now = _micro_time()
        before = dict((lease or {}).get("spec") or {})
        ours = before.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.lease)),
            "acquireTime": before.get("acquireTime") if ours else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if ours else 1),
        }
        try:
            if lease is None:
                self._lease = await self._kube.create(
                    LEASES, self._body(spec), namespace=self._namespace
                )
            else:
                # Taking the lease leaves the old leader's there: where the answer is lost, it is
                # read again.
                body = self._with_message(lease) if self.leading else lease
                self._lease = await self._kube.replace(
                    LEASES, self._name, {**body, "spec": spec}, namespace=self._namespace
                )
        except (Conflict, NotFound):
            return False
        self._seen = _Seen(dict(self._lease.get("spec") or {}), self._clock())
        return True

    def _with_message(self, lease: Json) -> Json:
        metadata = dict(lease["metadata"])
        annotations = dict(metadata.get("annotations") or {})
        annotations.pop(TO_NEXT_LEADER, None)
        if message := self._message():
            annotations[TO_NEXT_LEADER] = message
        return {**lease, "metadata": {**metadata, "annotations": annotations}}

    def _is_anothers(self) -> bool:
        return self.holder not in ("", self._identity)

    async def _release(self) -> None:
        """Lets another replica take over at once; failing that, it waits for the lease to end."""
        if self._lease is None or self._is_anothers():
            return
        lease, self._lease = self._with_message(self._lease), None
        spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(_RELEASE):
                await self._kube.replace(
                    LEASES, self._name, {**lease, "spec": spec}, namespace=self._namespace
                )
        except (KubeError, TimeoutError) as error:
            log.info("the lease was not released", extra={"error": str(error)})

    def _body(self, spec: Json) -> Json:
        return {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }


_RELEASE: Final = 2.0  # seconds


def _micro_time() -> str:
    # Go's MicroTime refuses anything but exactly six digits.
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
