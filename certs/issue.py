"""Issues the CA and the serving certificate; pure but for the keys, the time is given.

The profile is what Python 3.13's strict verifier and Go's accept: P-256, SKI and AKI everywhere,
no common name on the leaf (64 characters are too few for a Service's name).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.errors import UnusableCertificate

_CLOCK_SKEW: Final = timedelta(hours=1)
_SKEW_OF_A_LIFE: Final = 90  # of a leaf's 90 days one day: a clock may be set in another time zone
_SHORTEST_LIFE: Final = timedelta(seconds=2)  # X.509 counts in whole seconds
_CRITICAL: Final = True
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises where a certificate is damaged or stranger than it knows."""

_NO_USAGE: Final = {
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM; the key stays out of logs."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """What decisions need to know of a certificate."""

    not_before: datetime
    not_after: datetime
    names: frozenset[str]

    def lives(self, now: datetime) -> bool:
        """Whether it is valid at a time: no longer in the future, not over yet."""
        return self.not_before <= now < self.not_after

    @property
    def renewal(self) -> datetime:
        """When two thirds of its life are over."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3


def issue_authority(*, now: datetime, life: timedelta) -> Pair:
    """A self-signed CA that may sign leaves only; its name is unique to each generation."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mpslice CA {serial:x}"[:26])])
    usage = x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **_NO_USAGE)
    certificate = (
        _builder(now, life, serial, key)
        .not_valid_before(_a_little_before(now, life))
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), _CRITICAL)
        .add_extension(usage, _CRITICAL)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), not _CRITICAL
        )
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue_leaf(authority: Pair, names: Sequence[str], *, now: datetime, life: timedelta) -> Pair:
    """A serving certificate for DNS names, signed by the CA; it never outlives the CA.

    Raises UnusableCertificate for a CA that cannot be read, is about to end or is not valid yet.
    """
    ca, ca_key = load_certificate(authority.certificate), _load_key(authority.key)
    life = min(life, ca.not_valid_after_utc - now)
    begins = max(_a_little_before(now, life), ca.not_valid_before_utc)
    if life < _SHORTEST_LIFE:
        raise UnusableCertificate("the CA ends too soon to sign anything")
    if begins >= now + life:
        raise UnusableCertificate("the CA is not valid yet")
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **_NO_USAGE)
    certificate = (
        _builder(now, life, x509.random_serial_number(), key)
        .not_valid_before(begins)
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), _CRITICAL)
        .add_extension(usage, _CRITICAL)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), not _CRITICAL)
        .add_extension(  # critical, because the subject is empty (RFC 5280, 4.2.1.6)
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), _CRITICAL
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), not _CRITICAL
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def _builder(
    now: datetime, life: timedelta, serial: int, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .not_valid_after(now + life)
        .public_key(key.public_key())
        .add_extension(identifier, not _CRITICAL)
    )


def _a_little_before(now: datetime, life: timedelta) -> datetime:
    # For clocks that are behind; of a short life so little that it is not due at once.
    return now - max(min(_CLOCK_SKEW, life / 12), life / _SKEW_OF_A_LIFE)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def load_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate in PEM, readable to its last field; raises UnusableCertificate."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        # They are decoded only when asked for; a flaw in one would show long after this.
        certificate.public_key()
        for field in ("subject", "issuer", "extensions"):
            getattr(certificate, field)
    except _UNREADABLE as error:
        raise UnusableCertificate("no certificate in PEM form can be read") from error
    if certificate.serial_number < 1:  # Go's crypto/x509, the API server's, refuses it since 1.23
        raise UnusableCertificate("the certificate's serial number is not positive")
    return certificate


def load_bundle(pem: bytes) -> frozenset[x509.Certificate]:
    """The certificates of a caBundle; one that cannot be read counts as empty."""
    try:
        return frozenset(x509.load_pem_x509_certificates(pem))
    except _UNREADABLE:
        return frozenset()


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (*_UNREADABLE, TypeError) as error:
        raise UnusableCertificate("no private key in PEM form can be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UnusableCertificate("the private key is not of the kind that mpslice issues")
    return key


def facts(pem: bytes) -> Facts:
    """The facts of the first certificate in PEM; raises UnusableCertificate."""
    certificate = load_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = frozenset(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        dns = frozenset()
    return Facts(certificate.not_valid_before_utc, certificate.not_valid_after_utc, dns)


def check_pair(pair: Pair) -> None:
    """Raises UnusableCertificate unless the key is the certificate's and of our kind."""
    _load_key(pair.key)
    check_any_pair(pair)


def check_any_pair(pair: Pair) -> None:
    """The same for a pair that others issued, whose key may be of any kind."""
    certificate = load_certificate(pair.certificate)
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
    except TypeError as error:  # what an encrypted key raises
        raise UnusableCertificate("the private key is encrypted") from error
    except _UNREADABLE as error:
        raise UnusableCertificate("no private key in PEM form can be read") from error
    if key.public_key() != certificate.public_key():
        raise UnusableCertificate("the private key does not belong to the certificate")


def is_authority(pem: bytes) -> bool:
    """Whether a certificate can be read and may sign others."""
    try:
        extensions = load_certificate(pem).extensions
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, UnusableCertificate):
        return False


def is_issued_by(leaf: bytes, authority: x509.Certificate) -> bool:
    """Whether the CA has signed the leaf."""
    try:
        load_certificate(leaf).verify_directly_issued_by(authority)
    except (*_UNREADABLE, TypeError, InvalidSignature, UnusableCertificate):
        return False
    return True
