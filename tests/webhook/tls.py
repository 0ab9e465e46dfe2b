"""A certificate for localhost, and a client that trusts it."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certs.issue import issue_authority, issue_leaf


@dataclass(frozen=True)
class Tls:
    """PEM files of a chain and its key, and who signed it."""

    certificate: Path
    key: Path
    authority: bytes

    @property
    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.decode())

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make(folder: Path, *names: str) -> Tls:
    """A fresh CA and leaf for `localhost` and the names, as files in the folder."""
    now, life = datetime.now(UTC), timedelta(hours=1)
    authority = issue_authority(now=now, life=life)
    leaf = issue_leaf(authority, ["localhost", *names], now=now, life=life)
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(leaf.certificate)
    key.write_bytes(leaf.key)
    return Tls(certificate, key, authority.certificate)


def make_for_address(folder: Path, address: str) -> Tls:
    """The same for an IP address, by which a webhook with a URL is called."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tls.crt").write_bytes(pem)
    (folder / "tls.key").write_bytes(private)
    return Tls(folder / "tls.crt", folder / "tls.key", pem)
