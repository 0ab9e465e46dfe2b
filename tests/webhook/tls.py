"""A certificate for localhost, and a client that trusts it."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from certs.issue import issue_authority, issue_leaf


@dataclass(frozen=True)
class Tls:
    """PEM files of a chain and its key, and the context of a client that verifies them."""

    certificate: Path
    key: Path
    client: ssl.SSLContext

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
    return Tls(certificate, key, ssl.create_default_context(cadata=authority.certificate.decode()))
