"""Slice pods that are created all the time, for tests of what is lost meanwhile."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

from hack.cluster.progress import to_stderr
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE
from tests.webhook.cases import pod
from tests.webhook.cluster import Installation, Replica

PODS = "/api/v1/namespaces/default/pods?dryRun=All"
CLIENTS = 4
PAUSE = 0.05  # seconds between two pods of a client

Record = Callable[[str, object], None]
"""pytest's record_property."""


@dataclass
class Load:
    """Slice pods created dry-run, one after another, by a few clients."""

    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.failures.total()

    async def run(self, installation: Installation, stop: threading.Event) -> None:
        context = installation.plane.api.context
        connector = aiohttp.TCPConnector(ssl=context, limit=CLIENTS)
        base = installation.plane.url
        async with aiohttp.ClientSession(base, connector=connector) as session:
            await asyncio.gather(*(self._client(session, stop) for _ in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, stop: threading.Event) -> None:
        while not stop.is_set():
            async with session.post(PODS, json=pod()) as answer:
                status = await answer.json()
                self.sent += 1
                if answer.status != 201:
                    self.failures[status["message"].rpartition('timeout=5s": ')[2]] += 1
            await asyncio.sleep(PAUSE)

    def __str__(self) -> str:
        return f"{self.sent} sent, {self.failed} failed {dict(self.failures)}"


def tell(record: Record, what: str, load: Load) -> None:
    """Puts the figures into the report, and on stderr (`pytest -rP` shows them)."""
    record(what, str(load))
    to_stderr(f"{what}: {load}")


@contextmanager
def loaded(installation: Installation) -> Iterator[Load]:
    """While inside, pods are created; at least a second of it before and after the block."""
    load, stop = Load(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(load.run(installation, stop)))
    thread.start()
    try:
        some_more(load)
        yield load
        some_more(load)
    finally:
        stop.set()
        thread.join()


def some_more(load: Load) -> None:
    """Returns when each client has created some pods more."""
    enough = load.sent + 40
    wait_until(lambda: load.sent > enough, "pods are created", seconds=DEADLINE)


@contextmanager
def two(
    installation: Installation, *flags: str, values: Sequence[str] = ()
) -> Iterator[list[Replica]]:
    """The chart and two ready replicas, to which its Service leads; all that it lists is ended."""
    installation.install(*values)
    replicas = [installation.replica(*flags), installation.replica(*flags)]
    try:
        for replica in replicas:
            replica.start()
        for replica in replicas:
            replica.wait_ready()
        installation.publish(replicas)
        yield replicas
    finally:
        for replica in replicas:
            replica.stop(signal.SIGKILL)
