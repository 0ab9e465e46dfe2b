"""A handshake with ourselves, verified as the API server would: what readiness rests on."""

import asyncio
import ssl
from typing import Final

from certs.errors import NotTrusted

_DEADLINE: Final = 5.0  # seconds


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


async def handshake(host: str, port: int, name: str, bundle: bytes) -> None:
    """Connects to ourselves under a DNS name; raises NotTrusted with the verifier's reason."""
    context = trusting(bundle)
    try:
        async with asyncio.timeout(_DEADLINE):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(f"our certificate does not verify: {error.verify_message}") from error
    except (OSError, TimeoutError, ssl.SSLError) as error:
        raise NotTrusted(f"no handshake with ourselves: {error or 'no answer in time'}") from error
    writer.transport.abort()
