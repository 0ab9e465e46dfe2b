"""The TLS context that serves: a certificate is swapped in without touching a connection.

A failed load on a live context breaks it, so each certificate goes into a fresh context, and the
outer one hands a new handshake over to whichever was built last without an error. The same goes
for the CA that a client's certificate has to come from, where clients need one.
"""

import os
import ssl
import threading
from contextlib import ExitStack
from datetime import datetime
from typing import Final

from certs.errors import UnusableCertificate
from certs.issue import Pair, check_any_pair, facts

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # for TLS 1.2; 1.3 has its own list


class HotSwap:
    """`context` is the one to listen with; `pair` is what it serves, None before the first.

    With `asks_clients`, a client has to present a certificate of a CA that `trust_clients` was told
    of. Both may be called from any thread.
    """

    def __init__(self, *, asks_clients: bool = False) -> None:
        self.context: Final = _context()
        self.context.sni_callback = self._hand_over
        self.pair: Pair | None = None
        self._clients = b""
        self._lock = threading.Lock()
        if asks_clients:
            # All else that a handshake goes by is handed over, but this is not (SSL_set_SSL_CTX).
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._current: ssl.SSLContext | None = None

    @property
    def expires(self) -> datetime | None:
        """When the certificate in service ends."""
        return facts(self.pair.certificate).not_after if self.pair else None

    def serve(self, pair: Pair) -> bool:
        """Serves this pair from the next handshake on; False when it is being served already.

        Raises UnusableCertificate, and then goes on with the one before.
        """
        if pair == self.pair:
            return False
        check_any_pair(pair)
        with self._lock:
            self._current, self.pair = _loaded(pair, self._clients), pair
        return True

    def trust_clients(self, clients: bytes) -> bool:
        """Goes by these CA certificates (PEM) from the next handshake on; False if it does already.

        Raises UnusableCertificate, and then goes on with those before.
        """
        if clients == self._clients:
            return False
        with self._lock:
            self._current, self._clients = _loaded(self.pair, clients), clients
        return True

    def _hand_over(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> int | None:
        if self._current is None or self.pair is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # The API server keeps its connections; tickets would only cost memory and rotate no key.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context


def _loaded(pair: Pair | None, clients: bytes) -> ssl.SSLContext:
    context = _context()
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=clients.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError) as error:
            raise UnusableCertificate("no CA certificate in PEM form can be read") from error
    if pair is None:
        return context
    with ExitStack() as stack:
        # OpenSSL reads files only; these have no name, so no key is left behind anywhere.
        certificate = _anonymous_file(stack, pair.certificate)
        key = _anonymous_file(stack, pair.key)
        try:
            context.load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError) as error:
            raise UnusableCertificate(
                f"OpenSSL does not take the certificate and its key ({error})"
            ) from error
    return context


def _anonymous_file(stack: ExitStack, content: bytes) -> str:
    descriptor = os.memfd_create("mpslice-tls", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    return f"/proc/self/fd/{descriptor}"
