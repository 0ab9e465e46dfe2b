"""Swapping a certificate: new handshakes see it, old connections do not, a bad one nobody does."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certs.errors import UnusableCertificate
from certs.issue import Pair, facts, issue_authority, issue_leaf, load_certificate
from certs.serving import HotSwap
from tests.certs.handshakes import shake_hands

NOW = datetime.now(UTC)
NAME = "mpslice-webhook.mpslice-system.svc"


@pytest.fixture(scope="module")
def authority() -> Pair:
    return issue_authority(now=NOW, life=timedelta(days=9))


def leaf_of(authority: Pair) -> Pair:
    return issue_leaf(authority, (NAME,), now=NOW, life=timedelta(days=1))


def der(pair: Pair) -> bytes:
    return load_certificate(pair.certificate).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", [NAME, None], ids=["with SNI", "by address"])
def test_a_new_handshake_gets_the_new_certificate_and_an_old_connection_lives_on(
    authority: Pair, name: str | None
) -> None:
    swap, first, second = HotSwap(), leaf_of(authority), leaf_of(authority)
    assert swap.serve(first)
    before = shake_hands(swap.context, authority.certificate, name)
    assert swap.serve(second)
    after = shake_hands(swap.context, authority.certificate, name)
    assert (before.presented, after.presented) == (der(first), der(second))
    assert before.still_works()
    assert after.still_works()
    assert swap.expires == facts(second.certificate).not_after


def test_the_same_certificate_again_is_no_change(authority: Pair) -> None:
    swap, leaf = HotSwap(), leaf_of(authority)
    assert swap.serve(leaf)
    assert not swap.serve(leaf)


def bad_pairs(authority: Pair) -> dict[str, Pair]:
    leaf, other = leaf_of(authority), leaf_of(authority)
    key = serialization.load_pem_private_key(leaf.key, None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    # The first byte of the public key says in which form the point is.
    damaged = ssl.DER_cert_to_PEM_cert(der(leaf).replace(b"\x03\x42\x00\x04", b"\x03\x42\x00\xff"))
    return {
        "does not belong": Pair(leaf.certificate, other.key),
        "is encrypted": Pair(leaf.certificate, encrypted),
        "no private key": Pair(leaf.certificate, b"-----BEGIN"),
        "no certificate": Pair(b"", leaf.key),
        "can be read": Pair(damaged.encode(), leaf.key),
    }


@pytest.mark.parametrize(
    "wrong", ["does not belong", "is encrypted", "no private key", "no certificate", "can be read"]
)
def test_a_pair_that_cannot_be_served_leaves_the_last_good_one_in_service(
    authority: Pair, wrong: str
) -> None:
    swap, good = HotSwap(), leaf_of(authority)
    swap.serve(good)
    with pytest.raises(UnusableCertificate, match=wrong):
        swap.serve(bad_pairs(authority)[wrong])
    assert shake_hands(swap.context, authority.certificate, NAME).presented == der(good)
    assert swap.pair == good


def test_a_pair_with_an_rsa_key_as_others_issue_them_is_served() -> None:
    key = rsa.generate_private_key(65537, 2048)
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    subject = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    assert HotSwap().serve(Pair(pem, private))


def test_before_the_first_certificate_a_handshake_is_refused_and_does_not_hang(
    authority: Pair,
) -> None:
    with pytest.raises(ssl.SSLError):
        shake_hands(HotSwap().context, authority.certificate, NAME)


def test_a_client_that_speaks_tls_1_1_only_is_refused(authority: Pair) -> None:
    swap = HotSwap()
    swap.serve(leaf_of(authority))
    assert swap.context.minimum_version is ssl.TLSVersion.TLSv1_2
