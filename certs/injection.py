"""The caBundles of our own webhook configurations: read, and written with a guarded JSON patch.

Only configurations named to us are touched, and in them nothing but `caBundle`; the chart never
templates that field, so nobody else writes it.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.issue import is_authority, is_issued_by, load_bundle, load_certificate
from mpslice.kube.api import (
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    Json,
    Kube,
    PatchType,
    Resource,
)
from mpslice.kube.errors import NotFound

_MOST_ADOPTED: Final = 8  # keeps a caBundle small when a Secret is broken again and again


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook configuration that is ours."""

    resource: Resource
    name: str

    def __str__(self) -> str:
        return f"{self.resource.plural}/{self.name}"


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of a configuration, and its caBundle in PEM (empty when there is none).

    `version` is the configuration's resourceVersion, `fails_closed` its failurePolicy Fail.
    """

    target: Target
    version: str
    index: int
    name: str
    bundle: bytes
    fails_closed: bool = True

    def accepts(self, leaf: bytes) -> bool:
        """Whether a leaf comes from a CA in the caBundle."""
        return any(is_issued_by(leaf, authority) for authority in load_bundle(self.bundle))


class Sightings:
    """Since when every caBundle has held which CA, as far as we have looked."""

    def __init__(self) -> None:
        self._since: dict[x509.Certificate, float] = {}
        self._nobody_asks = False

    def note(self, hooks: Sequence[Hook], now: float) -> None:
        """What the API server holds at `now`, in seconds of any clock that only goes forward."""
        bundles = [load_bundle(hook.bundle) for hook in hooks]
        held = frozenset.intersection(*bundles) if bundles else frozenset()
        self._since = {authority: self._since.get(authority, now) for authority in held}
        self._nobody_asks = not hooks

    def since(self, authority: bytes) -> float:
        """When a CA was first seen in all; infinity while it is missing from one.

        Without any webhook no API server can refuse us: it counts as seen long ago.
        """
        if self._nobody_asks:
            return float("-inf")
        return self._since.get(load_certificate(authority), float("inf"))


def targets(mutating: Sequence[str], validating: Sequence[str]) -> tuple[Target, ...]:
    """The configurations with these names."""
    return (
        *(Target(MUTATING_WEBHOOKS, name) for name in mutating),
        *(Target(VALIDATING_WEBHOOKS, name) for name in validating),
    )


def adoptable(hooks: Sequence[Hook], now: datetime) -> tuple[bytes, ...]:
    """CAs that caBundles hold, each once, in PEM: those alive at `now` first, the newest of them.

    What is not alive by our clock may be by the others', who serve its leaves.
    """
    held = {certificate for hook in hooks for certificate in load_bundle(hook.bundle)}
    newest = sorted(held, key=lambda ca: (ca.not_valid_before_utc, ca.serial_number), reverse=True)
    newest.sort(key=lambda ca: not ca.not_valid_before_utc <= now < ca.not_valid_after_utc)
    blocks = [ca.public_bytes(Encoding.PEM) for ca in newest]
    return tuple(block for block in blocks if is_authority(block))[:_MOST_ADOPTED]


async def read_hooks(kube: Kube, ours: Sequence[Target]) -> tuple[Hook, ...]:
    """Every webhook of our configurations as the API server holds them; absent ones have none.

    Raises KubeError.
    """
    hooks: list[Hook] = []
    for target in ours:
        try:
            configuration = await kube.read(target.resource, target.name)
        except NotFound:  # the chart may leave one out
            continue
        hooks += _hooks(target, configuration)
    return tuple(hooks)


def _hooks(target: Target, configuration: Json) -> list[Hook]:
    version = str(configuration["metadata"]["resourceVersion"])
    return [
        Hook(
            target,
            version,
            index,
            name=str(hook.get("name")),
            bundle=_bundle(hook.get("clientConfig") or {}),
            fails_closed=hook.get("failurePolicy") != "Ignore",
        )
        for index, hook in enumerate(configuration.get("webhooks") or ())
    ]


def _bundle(client_config: Json) -> bytes:
    try:
        return base64.b64decode(client_config.get("caBundle") or "")
    except binascii.Error:
        return b""


async def inject(kube: Kube, hooks: Sequence[Hook], bundle: bytes) -> tuple[Target, ...]:
    """Makes `bundle` the caBundle of every hook that has another; says which were written.

    Raises KubeError: a Conflict when a configuration is no longer as it was read, so that a
    replica that was held up cannot write an old bundle over a newer one.
    """
    stale = [hook for hook in hooks if load_bundle(hook.bundle) != load_bundle(bundle)]
    changed = tuple(dict.fromkeys(hook.target for hook in stale))
    for target in changed:
        ours = [hook for hook in stale if hook.target == target]
        as_read = {"op": "replace", "path": "/metadata/resourceVersion", "value": ours[0].version}
        patch = [as_read, *(op for hook in ours for op in _patch(hook, bundle))]
        await kube.patch(target.resource, target.name, patch, type=PatchType.JSON)
    return changed


def _patch(hook: Hook, bundle: bytes) -> tuple[Json, Json]:
    path = f"/webhooks/{hook.index}"
    value = base64.b64encode(bundle).decode()
    return (
        {"op": "test", "path": f"{path}/name", "value": hook.name},
        {"op": "add", "path": f"{path}/clientConfig/caBundle", "value": value},
    )
