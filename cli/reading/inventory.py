"""The objects of the input by kind: each once, with a name, and in the shape of its kind.

Where an object is given twice, a file wins over the cluster, and the later of two files wins, as
with `kubectl apply`. Kinds that do not bear on slices are counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cli.errors import UnusableInput
from cli.reading.manifests import Manifest, Read
from cli.reading.shapes import GROUPS, check_manifest
from mpslice.slices import looks_like_slice

_PREFIX: Final = 58  # characters of generateName that the API server keeps
_SHOWN: Final = 3  # objects that a warning names
_CLUSTER_WIDE: Final = frozenset({"Node", "NodeLayout", "Namespace", "PriorityClass"})
_ONE_BY_ONE: Final = frozenset({"Node", "NodeLayout"})
"""Kinds of which a bad object is set aside with a warning instead of ending the command."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell about an object of the input, such as `Node n1`."""

    object: str
    reason: str
    message: str


@dataclass(slots=True)
class Inventory:
    """The objects that are planned with.

    `replaced` are objects of the cluster that a file replaces. `skipped` counts the kinds that do
    not bear on slices, and `askers` are those of them that ask for slices all the same, such as a
    PyTorchJob. `bad_nodes` says what is wrong with nodes that cannot be read.
    """

    by_kind: dict[str, dict[str, Manifest]] = field(default_factory=dict)
    replaced: list[Manifest] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    askers: list[Manifest] = field(default_factory=list)
    bad_nodes: dict[str, str] = field(default_factory=dict)
    warnings: list[Notice] = field(default_factory=list)
    total: int = 0

    def of(self, kind: str) -> list[Manifest]:
        """The objects of a kind."""
        return list(self.by_kind.get(kind, {}).values())


def take_stock(read: Read, namespace: str = "") -> Inventory:
    """Sorts the objects; raises UnusableInput for one that no API server would take.

    `namespace` is that of manifests that name none, "" for Kubernetes' default.
    """
    stock = Inventory(total=len(read.manifests))
    twice: list[tuple[Manifest, Manifest]] = []
    for manifest in read.manifests:
        if not _is_ours(manifest):
            if not manifest.is_stored and slices_in(manifest.obj):
                stock.askers.append(manifest)
            else:
                stock.skipped[manifest.kind] += 1
            continue
        known = stock.by_kind.setdefault(manifest.kind, {})
        named = _named(_in_namespace(manifest, namespace), known)
        if not _is_sound(named, stock):
            continue
        if (before := known.get(named.key)) is not None:
            kept, dropped = _which_counts(before, named)
            twice.append((kept, dropped))
            if dropped.is_stored:
                stock.replaced.append(dropped)
            named = kept
        known[named.key] = named
    if read.others:
        stock.skipped["document without a kind"] += len(read.others)
    stock.warnings += _told_twice(twice)
    return stock


def _is_ours(manifest: Manifest) -> bool:
    kind = manifest.kind
    return kind in GROUPS and manifest.group in (None, GROUPS[kind])


def _in_namespace(manifest: Manifest, namespace: str) -> Manifest:
    metadata = manifest.metadata
    if not namespace or metadata.get("namespace") or manifest.kind in _CLUSTER_WIDE:
        return manifest
    metadata = {**metadata, "namespace": namespace}
    return replace(manifest, obj={**manifest.obj, "metadata": metadata})


def _named(manifest: Manifest, known: Mapping[str, Manifest]) -> Manifest:
    """Returns the manifest with a name where the API server would generate one."""
    metadata = manifest.metadata
    name, prefix = metadata.get("name"), metadata.get("generateName")
    if isinstance(name, str) and name:
        return manifest
    if not isinstance(prefix, str) or not prefix:
        raise UnusableInput(f"{manifest.where()}: this {manifest.kind} has no metadata.name")
    number = 1
    while True:
        metadata = {**metadata, "name": f"{prefix[:_PREFIX]}{number}"}
        named = replace(manifest, obj={**manifest.obj, "metadata": metadata})
        if named.key not in known:
            return named
        number += 1


def _is_sound(manifest: Manifest, stock: Inventory) -> bool:
    try:
        check_manifest(manifest)
    except UnusableInput as error:
        if manifest.kind not in _ONE_BY_ONE:
            raise
        stock.bad_nodes[str(manifest.metadata["name"])] = str(error)
        return False
    return True


def _which_counts(before: Manifest, after: Manifest) -> tuple[Manifest, Manifest]:
    """Returns the manifest that counts, and the other one."""
    if after.is_stored and not before.is_stored:
        return before, after
    return after, before


def _told_twice(pairs: Iterable[tuple[Manifest, Manifest]]) -> Iterable[Notice]:
    """Warns once of objects that a file replaces, and once of objects that files repeat."""
    pairs = [(kept, dropped) for kept, dropped in pairs if kept.obj != dropped.obj]
    mixed = [kept for kept, dropped in pairs if kept.is_stored != dropped.is_stored]
    alike = [kept for kept, dropped in pairs if kept.is_stored == dropped.is_stored]
    if mixed:
        text = "is in the cluster, too; what the file says counts"
        yield Notice(_listed(mixed), "GivenTwice", text)
    if alike:
        text = f"is given twice; the later one counts ({alike[0].where()})"
        yield Notice(_listed(alike), "GivenTwice", text)


def _listed(manifests: list[Manifest]) -> str:
    names = ", ".join(manifest.name for manifest in manifests[:_SHOWN])
    more = len(manifests) - _SHOWN
    return f"{names} and {more} more" if more > 0 else names


def slices_in(value: Any) -> list[str]:
    """The slices, and names that are attempts at one, that any `limits` or `requests` ask for."""
    found: dict[str, None] = {}
    rest = [value]
    while rest:
        here = rest.pop()
        if isinstance(here, list):
            rest += here
        elif isinstance(here, dict):
            for key, inner in here.items():
                if key in ("limits", "requests") and isinstance(inner, dict):
                    found.update(
                        dict.fromkeys(name for name in map(str, inner) if looks_like_slice(name))
                    )
                elif isinstance(inner, dict | list):
                    rest.append(inner)
    return sorted(found)
