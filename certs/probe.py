"""A handshake with ourselves, verified as the API server would: what readiness rests on.

It is made in memory, with the context that serves, so that no client of the port can delay it.
"""

import ssl
from typing import Final

from certs.errors import NotTrusted

_MOST_FLIGHTS: Final = 4  # TLS 1.3 takes one of the server's


def trusting(bundle: bytes) -> ssl.SSLContext:
    """A client's context that trusts a caBundle (PEM) and nothing else; raises NotTrusted.

    It accepts what the API server accepts (Go's crypto/x509, Certificate.Verify), so that a
    certificate that others issue is neither more nor less trusted by us: every certificate of the
    bundle is an anchor, also an intermediate CA; a name counts only as a subjectAltName.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    try:
        # What is no ASCII is a comment between the certificates.
        context.load_verify_locations(cadata=bundle.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise NotTrusted("the caBundle is empty or holds no certificate") from error
    return context


def handshake(serving: ssl.SSLContext, name: str, bundle: bytes) -> None:
    """Meets the server's side under a DNS name; raises NotTrusted with the verifier's reason.

    It ends when the client has verified the server. A certificate of the client's own, where the
    server asks for one, is the server's to verify later.
    """
    context = trusting(bundle)
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = context.wrap_bio(client_in, client_out, server_hostname=name)
    server = serving.wrap_bio(server_in, server_out, server_side=True)
    try:
        for _ in range(_MOST_FLIGHTS):
            if _goes_on(client):
                return
            server_in.write(client_out.read())
            _goes_on(server)
            client_in.write(server_out.read())
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(f"our certificate does not verify: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise NotTrusted(f"no handshake with ourselves: {error}") from error
    raise NotTrusted("no handshake with ourselves: it does not end")


def _goes_on(side: ssl.SSLObject) -> bool:
    """Whether the handshake is over for this side."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
