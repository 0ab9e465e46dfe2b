"""We trust what the API server trusts: certificates as cert-manager, openssl and people issue them.

The verdicts are those of Go's crypto/x509 (Certificate.Verify with the caBundle as roots).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.errors import NotTrusted
from certs.issue import Pair
from certs.probe import handshake
from certs.serving import HotSwap

NAME = "w.n.svc"
NOW = datetime.now(UTC)
CRITICAL = True


class Identity:
    """A key and its certificate; without an issuer it has signed itself."""

    def __init__(
        self,
        common_name: str,
        issuer: "Identity | None" = None,
        *extensions: x509.ExtensionType,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        self.name = x509.Name(names)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(hours=1))
            .not_valid_after(NOW + timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, CRITICAL)
        signed = builder.sign(issuer.key if issuer else self.key, hashes.SHA256())
        self.pem = signed.public_bytes(serialization.Encoding.PEM)

    def serving(self, *chain: "Identity") -> Pair:
        """What a server is given: its certificate, those above it, and its key."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Pair(b"".join(one.pem for one in (self, *chain)), key)


# As `openssl req -x509` makes one: with neither key usage nor key identifiers.
AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)
SAN = x509.SubjectAlternativeName([x509.DNSName(NAME)])
ROOT = Identity("root", None, AUTHORITY)
MIDDLE = Identity("middle", ROOT, AUTHORITY)
BY_ROOT = Identity("leaf", ROOT, SAN)
BY_MIDDLE = Identity("leaf", MIDDLE, SAN)
# As cert-manager's self-signed issuer makes one, whose ca.crt is the certificate itself.
LONELY = Identity("", None, SAN, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))
NAMED_IN_SUBJECT = Identity(NAME, ROOT)


def ask(served: Pair, bundle: bytes, *, asks_clients: bool = False) -> None:
    swap = HotSwap(asks_clients=asks_clients)
    swap.serve(served)
    handshake(swap.context, NAME, bundle)


@pytest.mark.parametrize(
    ("leaf", "chain", "bundle"),
    [
        (BY_ROOT, (), ROOT.pem),
        (BY_MIDDLE, (), MIDDLE.pem),
        (BY_MIDDLE, (MIDDLE,), ROOT.pem),
        (LONELY, (), LONELY.pem),
        (BY_ROOT, (), "# Autorité\n".encode() + ROOT.pem),
    ],
    ids=["no identifiers", "intermediate", "chain", "self-signed", "comment in the bundle"],
)
def test_certificate_that_the_api_server_accepts_is_trusted(
    leaf: Identity, chain: Sequence[Identity], bundle: bytes
) -> None:
    ask(leaf.serving(*chain), bundle)


@pytest.mark.parametrize(
    ("leaf", "bundle"),
    [(BY_MIDDLE, ROOT.pem), (BY_ROOT, MIDDLE.pem), (NAMED_IN_SUBJECT, ROOT.pem)],
    ids=["chain is missing", "another CA", "no subjectAltName"],
)
def test_certificate_that_the_api_server_refuses_is_not_trusted(
    leaf: Identity, bundle: bytes
) -> None:
    with pytest.raises(NotTrusted, match="our certificate does not verify: "):
        ask(leaf.serving(), bundle)


def test_a_server_that_asks_for_the_clients_certificate_proves_its_own_all_the_same() -> None:
    ask(BY_ROOT.serving(), ROOT.pem, asks_clients=True)
    with pytest.raises(NotTrusted, match="our certificate does not verify: "):
        ask(BY_ROOT.serving(), MIDDLE.pem, asks_clients=True)


def test_without_any_certificate_there_is_no_handshake() -> None:
    with pytest.raises(NotTrusted, match="no handshake with ourselves: "):
        handshake(HotSwap().context, NAME, ROOT.pem)
