"""The Secret: what is written is read back, and what is spoilt costs no more than it has to."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from certs.errors import BrokenSecret
from certs.issue import issue_authority, issue_leaf
from certs.state import KEYS, Retired, State, decode, encode

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def state() -> State:
    old, current, upcoming = (issue_authority(now=NOW, life=1000 * DAY) for _ in range(3))
    leaf = issue_leaf(current, ("a.b.svc",), now=NOW, life=90 * DAY)
    return State(current, leaf, upcoming, (Retired(old.certificate, NOW + DAY),))


def test_what_is_written_is_read_back(state: State) -> None:
    assert decode(encode(state)) == state
    assert set(encode(state)) == set(KEYS)


def test_the_bundle_holds_the_current_the_next_and_the_retired_ca(state: State) -> None:
    assert state.upcoming is not None
    for part in (state.authority.certificate, state.upcoming.certificate):
        assert part in state.bundle
    assert state.retired[0].certificate in state.bundle


GARBAGE = ("", "!!", base64.b64encode(b"no PEM").decode(), None, 7, ["x"])


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("key", ["ca.crt", "ca.key"])
def test_without_a_ca_there_is_no_state(state: State, key: str, garbage: object) -> None:
    with pytest.raises(BrokenSecret):
        decode({**encode(state), key: garbage})


@pytest.mark.parametrize("garbage", ["!!!!", "eA==", "W3t9XQ==", "e30="])
def test_what_is_trusted_besides_is_never_forgotten_by_mistake(state: State, garbage: str) -> None:
    with pytest.raises(BrokenSecret):
        decode({**encode(state), "retired-ca.json": garbage})


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith(("tls", "next-ca"))])
def test_any_other_spoilt_part_is_dropped_and_the_rest_kept(
    state: State, key: str, garbage: object
) -> None:
    read = decode({**encode(state), key: garbage})
    assert read.authority == state.authority
    parts = {"tls": "leaf", "next-ca": "upcoming"}
    for name, attribute in parts.items():
        kept = getattr(read, attribute) == getattr(state, attribute)
        assert kept is not key.startswith(name)


def test_a_leaf_of_another_ca_is_dropped(state: State) -> None:
    stray = issue_leaf(
        issue_authority(now=NOW, life=DAY), ("a.b.svc",), now=NOW, life=timedelta(hours=1)
    )
    read = decode(encode(State(state.authority, stray)))
    assert read == State(state.authority, None)


def test_a_leaf_in_place_of_the_ca_is_no_ca(state: State) -> None:
    assert state.leaf is not None
    with pytest.raises(BrokenSecret):
        decode(encode(State(state.leaf, state.leaf)))
