"""The certificates, keys and kubeconfigs of one cluster, made anew each time.

Apart from the processes that use them because identities are decided here: the names
and groups are those that Kubernetes' built-in RBAC rules expect.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hack.cluster.layout import ClusterDir

_LIFE = datetime.timedelta(days=30)
_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of a certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority that lives for one cluster."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.pair = _write(folder, name, self._key, certificate)

    def client(self, name: str, user: str, *groups: str) -> KeyPair:
        """A certificate that authenticates as `user` of `groups`."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(user, *groups), self._name, key.public_key())
        return self._sign(name, key, builder, ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, name: str, hosts: Sequence[str]) -> KeyPair:
        """A certificate for host names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(name), self._name, key.public_key())
        names = x509.SubjectAlternativeName(map(_host, hosts))
        builder = builder.add_extension(names, critical=False)
        return self._sign(name, key, builder, ExtendedKeyUsageOID.SERVER_AUTH)

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        builder: x509.CertificateBuilder,
        usage: x509.ObjectIdentifier,
    ) -> KeyPair:
        # Python 3.13 verifies strictly and wants to see the authority's key.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _write(self._folder, name, key, certificate)


def signing_key(folder: Path, name: str) -> KeyPair:
    """A bare key pair, for service account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = folder / f"{name}.pub"
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return KeyPair(public, _write_key(folder, name, key))


def write_kubeconfig(path: Path, server: str, authority: Path, user: dict[str, str]) -> Path:
    """`user` is the user entry: a token, or certificate and key files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "mpslice",
                "cluster": {"server": server, "certificate-authority": str(authority)},
            }
        ],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "mpslice", "context": {"cluster": "mpslice", "user": "user"}}],
        "current-context": "mpslice",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))
    return path


@dataclass(frozen=True, slots=True)
class Pki:
    """All identities of one cluster's control plane."""

    cluster: ClusterDir
    authority: Authority
    front_proxy: Authority
    server: KeyPair
    kubelet_client: KeyPair
    front_proxy_client: KeyPair
    service_accounts: KeyPair

    def kubeconfig(self, path: Path, url: str, user: str, *groups: str) -> Path:
        """A kubeconfig whose certificate says `user` of `groups`."""
        pair = self.authority.client(path.stem, user, *groups)
        entry = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        return write_kubeconfig(path, url, self.authority.pair.certificate, entry)


def create(cluster: ClusterDir, addresses: Sequence[str]) -> Pki:
    """`addresses` are those at which the API server is reached."""
    authority = Authority(cluster.pki, "ca")
    front_proxy = Authority(cluster.pki, "front-proxy-ca")
    service = ["kubernetes", "default", "svc", "cluster", "local"]
    names = [".".join(service[:length]) for length in (1, 2, 3, 5)]
    return Pki(
        cluster,
        authority,
        front_proxy,
        server=authority.server("apiserver", [*names, "localhost", *addresses]),
        kubelet_client=authority.client(
            "apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"
        ),
        front_proxy_client=front_proxy.client("front-proxy-client", "front-proxy-client"),
        service_accounts=signing_key(cluster.pki, "service-accounts"),
    )


def _subject(user: str, *groups: str) -> x509.Name:
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFE)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> KeyPair:
    path = folder / f"{name}.crt"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return KeyPair(path, _write_key(folder, name, key))


def _write_key(folder: Path, name: str, key: ec.EllipticCurvePrivateKey) -> Path:
    path = folder / f"{name}.key"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
