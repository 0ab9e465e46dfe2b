"""The state that all replicas share, and the codec between it and the Secret that holds it.

A part that cannot be read is dropped where the rest can mend it.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from certs.errors import BrokenSecret, UnusableCertificate
from certs.issue import Pair, check_pair, is_authority, is_issued_by, load_certificate

_RETIRED: Final = "retired-ca.json"

KEYS: Final = (
    *(f"{name}.{part}" for name in ("ca", "tls", "next-ca") for part in ("crt", "key")),
    _RETIRED,
)
"""Every key of the Secret that is ours."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A CA that signs no more; it stays trusted until its last leaf is dead."""

    certificate: bytes
    until: datetime


@dataclass(frozen=True, slots=True)
class State:
    """The CA in use, the leaf in service (None when lost), the next CA, and the retired ones."""

    authority: Pair
    leaf: Pair | None
    upcoming: Pair | None = None
    retired: tuple[Retired, ...] = ()

    @property
    def bundle(self) -> bytes:
        """What a caBundle has to hold: every CA that a leaf in service may come from."""
        upcoming = (self.upcoming.certificate,) if self.upcoming else ()
        retired = tuple(item.certificate for item in self.retired)
        return b"".join((self.authority.certificate, *upcoming, *retired))


def encode(state: State) -> dict[str, str]:
    """The `data` of the Secret; absent parts are absent keys."""
    plain = {**_encode_pair("ca", state.authority)}
    if state.leaf:
        plain |= _encode_pair("tls", state.leaf)
    if state.upcoming:
        plain |= _encode_pair("next-ca", state.upcoming)
    if state.retired:
        plain[_RETIRED] = json.dumps([_encode_retired(item) for item in state.retired]).encode()
    return {key: base64.b64encode(value).decode() for key, value in plain.items()}


def _encode_pair(name: str, pair: Pair) -> dict[str, bytes]:
    return {f"{name}.crt": pair.certificate, f"{name}.key": pair.key}


def _encode_retired(item: Retired) -> dict[str, str]:
    return {"certificate": item.certificate.decode(), "until": item.until.isoformat()}


def decode(data: Mapping[str, Any]) -> State:
    """The state in a Secret's `data`.

    Raises BrokenSecret when it holds no CA that works, or no longer says what else is trusted.
    """
    authority = _decode_pair(data, "ca")
    if authority is None or not is_authority(authority.certificate):
        raise BrokenSecret("ca.crt and ca.key are no CA with its key")
    leaf, upcoming = _decode_pair(data, "tls"), _decode_pair(data, "next-ca")
    if leaf is not None and not is_issued_by(
        leaf.certificate, load_certificate(authority.certificate)
    ):
        leaf = None
    if upcoming is not None and not is_authority(upcoming.certificate):
        upcoming = None
    return State(authority, leaf, upcoming, _decode_retired(data))


def _decode_pair(data: Mapping[str, Any], name: str) -> Pair | None:
    certificate, key = _decode_value(data, f"{name}.crt"), _decode_value(data, f"{name}.key")
    pair = Pair(certificate, key)
    try:
        check_pair(pair)
    except UnusableCertificate:
        return None
    return pair


def _decode_value(data: Mapping[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(data.get(key) or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


def _decode_retired(data: Mapping[str, Any]) -> tuple[Retired, ...]:
    if not data.get(_RETIRED):
        return ()
    try:
        items = json.loads(base64.b64decode(data[_RETIRED], validate=True))
        if not isinstance(items, list):
            raise BrokenSecret(f"{_RETIRED} holds no list")
        return tuple(_retired(item) for item in items)
    except (ValueError, TypeError, KeyError, RecursionError, UnusableCertificate) as error:
        raise BrokenSecret(f"{_RETIRED} cannot be read") from error


def _retired(item: Mapping[str, Any]) -> Retired:
    certificate = str(item["certificate"]).encode()
    load_certificate(certificate)
    until = datetime.fromisoformat(item["until"])
    if until.tzinfo is None:
        raise ValueError("a time without its zone")
    return Retired(certificate, until)
