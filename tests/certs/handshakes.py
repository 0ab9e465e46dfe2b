"""A TLS handshake without a network, verified as strictly as Python can."""

import ssl
from dataclasses import dataclass

from certs.probe import trusting


@dataclass(frozen=True, slots=True)
class Connection:
    """Two ends that have shaken hands; `presented` is the server's certificate in DER."""

    client: ssl.SSLObject
    server: ssl.SSLObject
    presented: bytes
    client_out: ssl.MemoryBIO
    server_in: ssl.MemoryBIO

    def still_works(self) -> bool:
        """Whether a message of the client's gets through."""
        self.client.write(b"ping")
        self.server_in.write(self.client_out.read())
        return self.server.read() == b"ping"


def shake_hands(server: ssl.SSLContext, bundle: bytes, name: str | None) -> Connection:
    """Raises ssl.SSLError as a client would see it; without a name none is checked or sent."""
    context = trusting(bundle)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = name is not None
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = context.wrap_bio(client_in, client_out, server_hostname=name)
    answering = server.wrap_bio(server_in, server_out, server_side=True)
    waiting = {client, answering}
    for _ in range(8):
        for end in (client, answering):
            try:
                end.do_handshake()
                waiting.discard(end)
            except ssl.SSLWantReadError:
                pass
            server_in.write(client_out.read())
            client_in.write(server_out.read())
    assert not waiting, "the handshake did not end"
    presented = client.getpeercert(binary_form=True)
    assert presented is not None
    return Connection(client, answering, presented, client_out, server_in)
