"""The X.509 profile, proved by verifiers rather than by reading fields back."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certs.errors import UnusableCertificate
from certs.issue import Pair, check_any_pair, facts, issue_authority, issue_leaf, load_certificate
from certs.serving import HotSwap
from tests.certs.handshakes import shake_hands

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = (f"{'w' * 60}.{'n' * 60}.svc", f"{'w' * 60}.{'n' * 60}.svc.cluster.local")


@pytest.fixture(scope="module")
def authority() -> Pair:
    return issue_authority(now=NOW, life=timedelta(days=1825))


@pytest.fixture(scope="module")
def leaf(authority: Pair) -> Pair:
    return issue_leaf(authority, NAMES, now=NOW, life=timedelta(days=90))


def test_a_strict_client_accepts_a_leaf_under_each_of_its_names(
    authority: Pair, leaf: Pair
) -> None:
    swap = HotSwap()
    swap.serve(leaf)
    for name in NAMES:
        presented = shake_hands(swap.context, authority.certificate, name).presented
        assert x509.load_der_x509_certificate(presented) == load_certificate(leaf.certificate)


def test_openssl_accepts_the_chain_strictly_and_for_servers_only(
    authority: Pair, leaf: Pair, tmp_path: Path
) -> None:
    (tmp_path / "ca").write_bytes(authority.certificate)
    (tmp_path / "leaf").write_bytes(leaf.certificate)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca")]
    for purpose, accepted in (("sslserver", True), ("sslclient", False)):
        done = subprocess.run([*command, "-purpose", purpose, str(tmp_path / "leaf")], check=False)
        assert (done.returncode == 0) is accepted, purpose


def test_a_ca_can_sign_no_other_ca(authority: Pair) -> None:
    constraints = load_certificate(authority.certificate).extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_two_generations_of_ca_have_different_names() -> None:
    first, second = (issue_authority(now=NOW, life=timedelta(days=1)) for _ in range(2))
    assert (
        load_certificate(first.certificate).subject != load_certificate(second.certificate).subject
    )


def test_a_leaf_never_outlives_its_ca(authority: Pair) -> None:
    late = NOW + timedelta(days=1800)
    leaf = issue_leaf(authority, NAMES, now=late, life=timedelta(days=90))
    assert facts(leaf.certificate).not_after == facts(authority.certificate).not_after


@pytest.mark.parametrize(
    ("made", "why"), [(365, "is not valid yet"), (-1825, "ends too soon to sign")]
)
def test_a_ca_from_another_time_signs_nothing_and_says_why(made: int, why: str) -> None:
    authority = issue_authority(now=NOW + timedelta(days=made), life=timedelta(days=1825))
    with pytest.raises(UnusableCertificate, match=why):
        issue_leaf(authority, NAMES, now=NOW, life=timedelta(days=90))


@pytest.mark.parametrize("life", [timedelta(seconds=6), timedelta(days=90)])
def test_a_fresh_leaf_is_valid_for_a_clock_that_is_behind_and_is_not_due_yet(
    authority: Pair, life: timedelta
) -> None:
    leaf = facts(issue_leaf(authority, NAMES, now=NOW, life=life).certificate)
    assert leaf.not_before <= NOW < leaf.renewal < leaf.not_after


def test_a_long_lived_leaf_is_valid_for_a_clock_that_is_most_of_a_day_behind(
    authority: Pair,
) -> None:
    leaf = facts(issue_leaf(authority, NAMES, now=NOW, life=timedelta(days=90)).certificate)
    assert leaf.lives(NOW - timedelta(hours=23))
    assert not leaf.lives(NOW - timedelta(hours=25))
    assert not leaf.lives(leaf.not_after)


def test_private_keys_stay_out_of_representations(leaf: Pair) -> None:
    assert "PRIVATE" not in repr(leaf)


def test_a_key_of_another_certificate_is_told_apart(authority: Pair, leaf: Pair) -> None:
    mixed = type(leaf)(leaf.certificate, authority.key)
    with pytest.raises(UnusableCertificate, match="does not belong"):
        check_any_pair(mixed)
