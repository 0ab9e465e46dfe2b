"""The Secret: what is written is read back, and what is spoilt costs no more than it has to."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.errors import BrokenSecret
from certs.issue import issue_authority, issue_leaf
from certs.rotation import Terms, next_date, next_step, take
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


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"{}",
        b"[{}]",
        b"[[]]",
        b"[" * 100_000,
        b'[{"certificate": 7, "until": 7}]',
        b'[{"certificate": "\\ud800", "until": "2030-01-01T00:00:00+00:00"}]',
    ],
    ids=lambda garbage: garbage[:20].decode(),
)
def test_what_is_trusted_besides_is_never_forgotten_by_mistake(
    state: State, garbage: bytes
) -> None:
    with pytest.raises(BrokenSecret):
        decode({**encode(state), "retired-ca.json": base64.b64encode(garbage).decode()})


def test_what_is_trusted_besides_has_to_be_base64(state: State) -> None:
    with pytest.raises(BrokenSecret):
        decode({**encode(state), "retired-ca.json": "!!!!"})


def flipped(value: str, place: int, bits: int) -> str:
    """A value of the Secret whose PEM block has other bits in one byte."""
    head, *lines, tail = base64.b64decode(value).decode().splitlines()
    content = bytearray(base64.b64decode("".join(lines)))
    content[place % len(content)] ^= bits
    pem = [head, base64.b64encode(content).decode(), tail, ""]
    return base64.b64encode("\n".join(pem).encode()).decode()


negative_serials = pytest.mark.filterwarnings("ignore:Parsed a serial number")


@negative_serials
def test_ca_whose_serial_number_is_negative_is_broken(state: State) -> None:
    first_of_the_number = 15  # in the DER of each of our certificates
    spoilt = flipped(encode(state)["ca.crt"], first_of_the_number, 0x80)
    with pytest.raises(BrokenSecret):
        decode({**encode(state), "ca.crt": spoilt})


@negative_serials
@settings(deadline=None, max_examples=400)
@given(st.data())
def test_with_a_damaged_byte_anywhere_the_secret_is_broken_or_can_be_worked_with(
    state: State, data: st.DataObject
) -> None:
    """docs/design/certificates.md: a Secret that is broken is issued again."""
    key = data.draw(st.sampled_from([key for key in KEYS if not key.endswith("json")]))
    place, bits = data.draw(st.integers(0, 2000)), data.draw(st.integers(1, 255))
    whole = encode(state)
    try:
        read = decode({**whole, key: flipped(whole[key], place, bits)})
    except BrokenSecret:
        assert key.startswith("ca.")
        return
    terms = Terms(("a.b.svc",))
    for spread in (True, False):
        step = next_step(read, NOW, terms, spread=spread)
        after = take(step, read, NOW, terms) if step else read
        assert decode(encode(after)) == after
        assert next_date(after)


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
