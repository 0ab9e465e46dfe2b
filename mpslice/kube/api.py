"""The seam to Kubernetes: where each kind lives, and the Protocol that everything else uses.

Objects cross it as plain JSON; each caller projects them to what it needs and drops them, because
holding thousands of raw objects costs the collector more than parsing them did.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

Json = dict[str, Any]
Query = Mapping[str, str]

PAGE: Final = "100"
"""Objects of a list that are asked for at a time. A page is in memory as a whole, as text and as
JSON, and each object may have megabytes; a page that is too large all the same comes shorter."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a kind lives in the API: `v1` or `group/version`, and its plural."""

    api_version: str
    plural: str
    namespaced: bool = False

    def path(
        self,
        name: str | None = None,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> str:
        """The URL path of the collection, or of one object and its subresource."""
        root = "/api" if "/" not in self.api_version else "/apis"
        scope = ("namespaces", namespace) if self.namespaced and namespace else ()
        parts = (root, self.api_version, *scope, self.plural, name, subresource)
        return "/".join(part for part in parts if part)


NODES = Resource("v1", "nodes")
PODS = Resource("v1", "pods", namespaced=True)
NAMESPACES = Resource("v1", "namespaces")
EVENTS = Resource("v1", "events", namespaced=True)
SECRETS = Resource("v1", "secrets", namespaced=True)
LEASES = Resource("coordination.k8s.io/v1", "leases", namespaced=True)
NODE_LAYOUTS = Resource("mpslice.io/v1alpha1", "nodelayouts")
MUTATING_WEBHOOKS = Resource("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations")
VALIDATING_WEBHOOKS = Resource("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations")


class PatchType(StrEnum):
    """The content types of a PATCH."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class Kube(Protocol):
    """The API server. Every call has a deadline and raises a KubeError, nothing else."""

    async def read(
        self, resource: Resource, name: str, *, namespace: str | None = None
    ) -> Json: ...

    async def list_page(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> Json:
        """One page of a list: the List object with `items` and `metadata.continue`.

        There may be fewer than `limit` on it when objects are large. Raises TooLarge where that
        does not help.
        """
        ...

    def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        """Watch events as they come, until the server ends the stream as `timeoutSeconds` says.

        Raises Gone for 410, in the stream or before it; Unreachable when the stream is cut or is
        silent for longer than the server promised.
        """
        ...

    async def create(
        self, resource: Resource, body: Json, *, namespace: str | None = None
    ) -> Json: ...

    async def replace(
        self, resource: Resource, name: str, body: Json, *, namespace: str | None = None
    ) -> Json: ...

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Json | Sequence[Json],
        *,
        type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json: ...

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        grace_seconds: int | None = None,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        """Raises Conflict when a `uid` or `resource_version` given is not the object's any more."""
        ...


async def list_pages(
    kube: Kube, resource: Resource, *, namespace: str | None = None, query: Query | None = None
) -> AsyncIterator[Json]:
    """The pages of a consistent list, all of one resourceVersion; there is at least one.

    A caller that drops each page before it asks for the next has one in memory.
    """
    token = ""
    while True:
        paging = {"limit": PAGE, **({"continue": token} if token else {})}
        page = await kube.list_page(
            resource, namespace=namespace, query={**(query or {}), **paging}
        )
        token = (page.get("metadata") or {}).get("continue") or ""
        yield page
        del page
        if not token:
            return


async def list_each(
    kube: Kube, resource: Resource, *, namespace: str | None = None, query: Query | None = None
) -> AsyncIterator[Json]:
    """Every object of a consistent list, of which one page is in memory at a time."""
    async for page in list_pages(kube, resource, namespace=namespace, query=query):
        for item in page.get("items") or ():
            yield item
        del page


async def list_all(
    kube: Kube, resource: Resource, *, namespace: str | None = None, query: Query | None = None
) -> list[Json]:
    """The same as a list, for the few callers whose lists are small."""
    return [item async for item in list_each(kube, resource, namespace=namespace, query=query)]
