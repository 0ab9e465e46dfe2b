"""Only clients with a certificate of the CA given are served, and of these only the names given."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certs.issue import Pair
from certs.serving import HotSwap
from hack.cluster.pki import Authority
from mpslice.flags import Address
from mpslice.ports import open_port
from mpslice.server import Limits, serving
from tests.waiting import eventually
from tests.webhook import tls
from tests.webhook.cases import pod
from tests.webhook.process import ended, standalone
from tests.webhook.test_review import review
from tests.webhook.test_server import post, read_answer
from webhook.admission import Admission
from webhook.metrics import Metrics
from webhook.settings import Settings

REQUEST = post("/mutate", review(pod()))


class Clients:
    """A CA, and contexts of clients that it has certified."""

    def __init__(self, folder: Path, server: tls.Tls) -> None:
        self._authority = Authority(folder, "clients")
        self._server = server
        self.file = self._authority.pair.certificate

    def named(self, name: str) -> ssl.SSLContext:
        context, pair = self._server.client, self._authority.client(name, name)
        context.load_cert_chain(pair.certificate, pair.key)
        return context


@dataclass
class Running:
    """A server that asks its clients for a certificate, and the CA whose clients it serves."""

    port: int
    swap: HotSwap
    pair: tls.Tls
    clients: Clients
    folder: Path


@asynccontextmanager
async def running(folder: Path, names: Sequence[str] = ()) -> AsyncIterator[Running]:
    pair = tls.make(folder)
    clients = Clients(folder / "clients", pair)
    swap = HotSwap(asks_clients=True)
    swap.trust_clients(clients.file.read_bytes())
    swap.serve(Pair(pair.certificate.read_bytes(), pair.key.read_bytes()))
    admission = Admission(Settings(), Metrics(), client_names=tuple(names))
    port = open_port("--listen", Address("127.0.0.1", 0))
    number = port.getsockname()[1]
    async with serving(port, admission.handle, Limits(), swap.context):
        yield Running(number, swap, pair, clients, folder)


async def ask(port: int, context: ssl.SSLContext) -> tuple[int, Any]:
    """The status and the answer to a review; raises where the connection is refused."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    try:
        writer.write(REQUEST)
        status, _, answer = await read_answer(reader)
    finally:
        writer.transport.abort()
    return status, answer


async def is_refused(port: int, context: ssl.SSLContext) -> None:
    # The client of TLS 1.3 has finished its handshake when the server refuses its certificate.
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await ask(port, context)


async def test_client_with_a_certificate_of_the_ca_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        status, answer = await ask(server.port, server.clients.named("kube-apiserver"))
        assert (status, answer["response"]["allowed"]) == (200, True)


async def test_client_without_a_certificate_is_not_served(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await is_refused(server.port, server.pair.client)


async def test_client_with_a_certificate_of_another_ca_is_not_served(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        others = Clients(tmp_path / "others", server.pair)
        await is_refused(server.port, others.named("kube-apiserver"))


async def test_only_the_names_given_are_served_and_another_is_told_which(tmp_path: Path) -> None:
    async with running(tmp_path, ("kube-apiserver", "front-proxy")) as server:
        for name in ("kube-apiserver", "front-proxy"):
            assert (await ask(server.port, server.clients.named(name)))[0] == 200
        status, answer = await ask(server.port, server.clients.named("system:node:n"))
        assert status == 403
        assert answer["message"] == (
            "a client named system:node:n is not served; present a certificate for "
            "kube-apiserver or front-proxy"
        )


async def test_another_ca_is_gone_by_from_the_next_handshake_on(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        others = Clients(tmp_path / "others", server.pair)
        assert server.swap.trust_clients(others.file.read_bytes())
        assert not server.swap.trust_clients(others.file.read_bytes())
        assert (await ask(server.port, others.named("a")))[0] == 200
        await is_refused(server.port, server.clients.named("a"))


async def test_a_renewed_certificate_of_the_server_leaves_clients_as_they_were(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as server:
        renewed = tls.make(tmp_path / "renewed")
        server.swap.serve(Pair(renewed.certificate.read_bytes(), renewed.key.read_bytes()))
        again = Clients(tmp_path / "again", renewed)
        await is_refused(server.port, renewed.client)
        await is_refused(server.port, again.named("a"))


async def test_file_of_the_ca_is_followed(tmp_path: Path) -> None:
    pair = tls.make(tmp_path)
    first, second = (Clients(tmp_path / name, pair) for name in ("first", "second"))
    followed = tmp_path / "followed.crt"
    followed.write_bytes(first.file.read_bytes())
    async with standalone(pair, [f"--client-ca-file={followed}"]) as webhook:
        assert (await ask(webhook.port, first.named("a")))[0] == 200
        followed.write_bytes(second.file.read_bytes())

        async def served() -> bool:
            try:
                return (await ask(webhook.port, second.named("a")))[0] == 200
            except (OSError, asyncio.IncompleteReadError):
                return False

        await eventually(served, "a client of the second CA is served", every=0.1)
        await is_refused(webhook.port, first.named("a"))


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), ("junk", "no CA certificate in PEM form")]
)
async def test_file_of_the_ca_that_cannot_be_used_is_named(
    tmp_path: Path, content: str | None, says: str
) -> None:
    pair, file = tls.make(tmp_path), tmp_path / "clients.crt"
    if content is not None:
        file.write_text(content)
    outcome = await ended(
        "--standalone",
        "--listen=127.0.0.1:0",
        "--ops-listen=127.0.0.1:0",
        f"--tls-cert-file={pair.certificate}",
        f"--tls-private-key-file={pair.key}",
        f"--client-ca-file={file}",
    )
    assert outcome.status == 1
    assert f"--client-ca-file {file}" in outcome.stderr
    assert says in outcome.stderr


async def test_names_without_a_ca_are_refused() -> None:
    outcome = await ended("--standalone", "--client-names=kube-apiserver")
    assert (outcome.status, "needs --client-ca-file" in outcome.stderr) == (1, True)
