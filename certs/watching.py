"""Watches on our Secret and our configurations: whoever changes one, we look again at once.

Each watch selects one object by name, which is what RBAC's resourceNames allow.
"""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from certs.injection import Target
from mpslice.kube.api import SECRETS, Json, Kube
from mpslice.kube.reflector import Change, Reflector


def watches(
    kube: Kube, namespace: str, secret: str, targets: Sequence[Target], wake: Callable[[], None]
) -> Iterator[Coroutine[Any, Any, None]]:
    """One endless watch for each object; each calls `wake` when its object changes."""

    def changed(_: Change[str]) -> None:
        wake()

    by_name = f"metadata.name={secret}"
    yield Reflector(
        kube, SECRETS, _version, changed, namespace=namespace, field_selector=by_name
    ).run()
    for target in targets:
        by_name = f"metadata.name={target.name}"
        yield Reflector(kube, target.resource, _version, changed, field_selector=by_name).run()


def _version(obj: Json) -> str:
    return str(obj["metadata"]["resourceVersion"])
