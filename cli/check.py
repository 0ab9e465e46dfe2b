"""`kubectl mpslice check`: does admission complete a slice pod, and refuse a wrong one?

It asks the API server in dry run, so it creates nothing and needs no GPU. `helm test` runs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mpslice.kube.api import PODS, Json, Resource
from mpslice.kube.errors import ApiError, Forbidden
from mpslice.slices import SliceSize, resource_name

_NAME = "mpslice-check"


class DryRun(Protocol):
    """The part of the API server that is asked."""

    async def create(
        self, resource: Resource, body: Json, *, namespace: str | None = None, dry_run: bool = False
    ) -> Json: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """The question and the answer in lines for people; `good` where admission works."""

    good: bool
    lines: tuple[str, ...]


def pod(resource: str, count: str) -> Json:
    """Returns the smallest pod that asks for the resource; for "" a pod that asks for none."""
    container: Json = {"name": "main", "image": _NAME}
    if resource:
        container["resources"] = {"limits": {resource: count}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _NAME},
        "spec": {"automountServiceAccountToken": False, "containers": [container]},
    }


async def completed(kube: DryRun, namespace: str, size: SliceSize) -> Finding:
    """Returns what a slice pod is given that a pod without slices is not given.

    Raises a KubeError where the API server cannot be asked.
    """
    resource = resource_name(size)
    asked = f"a pod that asks for {resource}"
    plain = await _ask(kube, namespace, pod("", ""))
    answer = await _ask(kube, namespace, pod(resource, "1"))
    if isinstance(answer, str):
        return Finding(False, (f"{asked} is refused:", f"  {answer}"))
    base = dict(_leaves(plain["spec"], "spec")) if isinstance(plain, dict) else {}
    injected = [
        f"  {path}: {value}"
        for path, value in _leaves(answer["spec"], "spec")
        if base.get(path) != value and ".resources." not in path
    ]
    if not injected:
        why = (
            "  nothing was injected: the API server does not ask mpslice's webhook about "
            f"namespace {namespace}. See whether admission.excludedNamespaces or the label "
            "mpslice.io/admission leaves it out, and whether the webhook is ready"
        )
        return Finding(False, (f"{asked} is taken as it is:", why))
    return Finding(True, (f"{asked} is taken, and gets:", *injected))


async def refused(kube: DryRun, namespace: str, size: SliceSize) -> Finding:
    """Whether a pod that breaks a rule is refused. Raises a KubeError as `completed` does."""
    resource = resource_name(size)
    asked = f"a pod that asks for two of {resource}"
    answer = await _ask(kube, namespace, pod(resource, "2"))
    if isinstance(answer, str) and "MultipleSlices" in answer:
        return Finding(True, (f"{asked} is refused:", f"  {answer}"))
    if isinstance(answer, str):
        return Finding(False, (f"{asked} is refused for another reason:", f"  {answer}"))
    return Finding(False, (f"{asked} is taken, and should have been refused",))


async def _ask(kube: DryRun, namespace: str, body: Json) -> Json | str:
    """Returns the pod as the API server would create it, or the words of its refusal.

    Raises ApiError where the account may not create pods.
    """
    try:
        return await kube.create(PODS, body, namespace=namespace, dry_run=True)
    except Forbidden as error:
        if "cannot create resource" in str(error):  # RBAC's words
            raise
        return str(error)
    except ApiError as error:
        return str(error)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each value below, with its path as kubectl writes it: spec.containers[0].image."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}")
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _leaves(below, f"{path}[{number}]")
    else:
        yield path, value
