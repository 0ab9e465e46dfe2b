"""Two replicas behind a real API server under a steady load: what is lost when one goes."""

import asyncio
import base64
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from certs.issue import Pair, facts, issue_leaf
from hack.cluster.progress import to_stderr
from hack.cluster.waiting import wait_until
from tests.webhook.cases import pod
from tests.webhook.cluster import NAMESPACE, Installation, Replica

PODS = "/api/v1/namespaces/default/pods?dryRun=All"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/mpslice-webhook-tls"
CLIENTS = 4
PAUSE = 0.05  # seconds between two pods of a client
DRAIN = ("--shutdown-delay=3s",)

pytestmark = pytest.mark.timeout(300)


Tell = Callable[[str, "Load"], None]


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Puts the figures into the report, and on stderr (`pytest -rP` shows them)."""

    def told(what: str, load: Load) -> None:
        record_property(what, str(load))
        to_stderr(f"{what}: {load}")

    return told


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


@contextmanager
def loaded(installation: Installation) -> Iterator[Load]:
    """While inside, pods are created; at least a second of it before and after the block."""
    load, stop = Load(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(load.run(installation, stop)))
    thread.start()
    try:
        _some_more(load)
        yield load
        _some_more(load)
    finally:
        stop.set()
        thread.join()


def _some_more(load: Load) -> None:
    enough = load.sent + 40
    wait_until(lambda: load.sent > enough, "pods are created", seconds=60)


@contextmanager
def two(installation: Installation, *flags: str) -> Iterator[list[Replica]]:
    """Two ready replicas whose endpoints follow their readiness; all that it lists is ended."""
    installation.install()
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


def test_rolling_both_replicas_fails_nothing(installation: Installation, tell: Tell) -> None:
    """As a Deployment with maxUnavailable 0 does it."""
    with (
        two(installation, *DRAIN) as replicas,
        installation.following(replicas),
        loaded(installation) as load,
    ):
        for old in list(replicas):
            new = installation.replica(*DRAIN)
            new.start()
            replicas.append(new)
            new.wait_ready()
            assert old.stop() == 0
    tell("rolling both replicas", load)
    assert load.failed == 0, load


def test_killing_one_of_two_costs_little(installation: Installation, tell: Tell) -> None:
    with (
        two(installation) as replicas,
        installation.following(replicas),
        loaded(installation) as load,
    ):
        replicas[0].stop(signal.SIGKILL)
        _some_more(load)
    tell("kill -9 of one of two", load)
    assert load.failed <= 0.1 * load.sent, load


def test_rotation_of_certificates_and_authorities_fails_nothing(
    installation: Installation, tell: Tell
) -> None:
    installation.plane.kubectl("delete", "secret", "mpslice-webhook-tls", "-n", NAMESPACE)
    short = ("--tls-ca-lifetime=24s", "--tls-cert-lifetime=9s", "--tls-propagation=1s")
    with two(installation, *short) as replicas, loaded(installation) as load:
        first = _secret(installation)
        wait_until(
            lambda: _secret(installation)["ca.crt"] != first["ca.crt"], "a new CA", seconds=60
        )
        second = _secret(installation)
        wait_until(
            lambda: _secret(installation)["tls.crt"] != second["tls.crt"], "a new leaf", seconds=60
        )
        assert all(replica.ready for replica in replicas)
    installation.plane.kubectl("delete", "secret", "mpslice-webhook-tls", "-n", NAMESPACE)
    tell("rotation of CA and leaves", load)
    assert load.failed == 0, load


def test_expired_leaf_in_the_secret_is_replaced_and_fails_nothing(
    installation: Installation, tell: Tell
) -> None:
    with two(installation), loaded(installation) as load:
        state = _secret(installation)
        authority = Pair(*(base64.b64decode(state[key]) for key in ("ca.crt", "ca.key")))
        names = sorted(facts(base64.b64decode(state["tls.crt"])).names)
        past = datetime.now(UTC) - timedelta(minutes=30)
        dead = issue_leaf(authority, names, now=past, life=timedelta(minutes=10))
        data = {"tls.crt": dead.certificate, "tls.key": dead.key}
        patch = {"data": {key: base64.b64encode(value).decode() for key, value in data.items()}}
        installation.plane.api.request("PATCH", SECRET, patch, "application/merge-patch+json")
        spoilt = patch["data"]["tls.crt"]
        wait_until(lambda: _secret(installation)["tls.crt"] != spoilt, "a living leaf", seconds=60)
    tell("expired leaf in the Secret", load)
    assert load.failed == 0, load


def _secret(installation: Installation) -> dict[str, str]:
    data: dict[str, str] = installation.plane.api.get(SECRET)["data"]
    return data
