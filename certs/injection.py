"""The caBundles of our own webhook configurations: read, and written with a guarded JSON patch.

Only configurations named to us are touched, and in them nothing but `caBundle`; the chart never
templates that field, so nobody else writes it.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from certs.issue import load_bundle
from mpslice.kube.api import (
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    Json,
    Kube,
    PatchType,
    Resource,
)
from mpslice.kube.errors import NotFound


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook configuration that is ours."""

    resource: Resource
    name: str

    def __str__(self) -> str:
        return f"{self.resource.plural}/{self.name}"


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of a configuration, and its caBundle in PEM (empty when there is none)."""

    target: Target
    index: int
    name: str
    bundle: bytes

    def trusts(self, certificates: bytes) -> bool:
        """Whether the caBundle holds every one of these certificates."""
        return load_bundle(certificates) <= load_bundle(self.bundle)


def targets(mutating: Sequence[str], validating: Sequence[str]) -> tuple[Target, ...]:
    """The configurations with these names."""
    return (
        *(Target(MUTATING_WEBHOOKS, name) for name in mutating),
        *(Target(VALIDATING_WEBHOOKS, name) for name in validating),
    )


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
    return [
        Hook(target, index, str(hook.get("name")), _bundle(hook.get("clientConfig") or {}))
        for index, hook in enumerate(configuration.get("webhooks") or ())
    ]


def _bundle(client_config: Json) -> bytes:
    try:
        return base64.b64decode(client_config.get("caBundle") or "")
    except binascii.Error:
        return b""


async def inject(kube: Kube, hooks: Sequence[Hook], bundle: bytes) -> tuple[Target, ...]:
    """Makes `bundle` the caBundle of every hook that has another; says which were written.

    Raises KubeError; a configuration that changed under our hands is one (the `test` fails).
    """
    stale = [hook for hook in hooks if load_bundle(hook.bundle) != load_bundle(bundle)]
    changed = tuple(dict.fromkeys(hook.target for hook in stale))
    for target in changed:
        patch = [op for hook in stale if hook.target == target for op in _patch(hook, bundle)]
        await kube.patch(target.resource, target.name, patch, type=PatchType.JSON)
    return changed


def _patch(hook: Hook, bundle: bytes) -> tuple[Json, Json]:
    path = f"/webhooks/{hook.index}"
    value = base64.b64encode(bundle).decode()
    return (
        {"op": "test", "path": f"{path}/name", "value": hook.name},
        {"op": "add", "path": f"{path}/clientConfig/caBundle", "value": value},
    )
