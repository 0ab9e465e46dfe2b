"""The chart's objects on a control plane, and its service accounts as API clients."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster import pki
from hack.cluster.controlplane import ControlPlane
from tests.chart import render
from tests.e2e.cluster import until
from tests.waiting import DEADLINE

Json = dict[str, Any]
NAMESPACE = "mpslice-system"
# The webhook's configurations would ask for a webhook that nobody serves here.
_LEFT_OUT = frozenset(
    {
        "Deployment",
        "DaemonSet",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    }
)


def apply(plane: ControlPlane, *objects: Json) -> None:
    """Server-side, so that what other tests applied is simply written over."""
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=manifest)


def install_accounts(plane: ControlPlane, *values: str) -> None:
    """Everything of the chart but what runs and what calls the webhook."""
    apply(plane, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    documents = render(plane.parts.helm, *values)
    apply(plane, *(document for document in documents if document["kind"] not in _LEFT_OUT))


def type_warnings(plane: ControlPlane, policy: str) -> list[Json]:
    """What the API server's type checker says of a policy's expressions, once it has looked."""
    path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}"

    def checked() -> Json | None:
        found = plane.api.get(path)
        status = found.get("status") or {}
        same = status.get("observedGeneration") == found["metadata"]["generation"]
        return status if same else None

    warnings: list[Json] = until(checked, f"{policy} is type-checked")["typeChecking"].get(  # type: ignore[index]
        "expressionWarnings", []
    )
    return warnings


MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Write:
    """One request, asked in dry run; a merge patch unless it says otherwise."""

    path: str
    body: Json | Sequence[Json] | None = None
    method: str = "PATCH"
    content_type: str = MERGE


class Account:
    """A service account of the chart, as a pod on `node` would hold it."""

    def __init__(self, plane: ControlPlane, name: str, node: str = "") -> None:
        self._plane = plane
        spec: Json = {"expirationSeconds": 3600}
        if node:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Node", "name": node}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token"
        self._token: str = plane.api.request("POST", path, request)["status"]["token"]

    def kubeconfig(self, path: Path) -> Path:
        """For a program that is to act as it."""
        authority = self._plane.pki.authority.pair.certificate
        return pki.write_kubeconfig(path, self._plane.url, authority, {"token": self._token})

    def refusal(
        self,
        method: str,
        path: str,
        body: Json | Sequence[Json] | None,
        content_type: str = "application/json",
    ) -> str:
        """What the API server says against a request; "" when it accepts it."""
        request = urllib.request.Request(
            self._plane.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type, "Authorization": f"Bearer {self._token}"},
        )
        context = _trusting(self._plane.pki.authority.pair.certificate)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE, context=context):
                return ""
        except urllib.error.HTTPError as error:
            message: str = json.load(error)["message"]
            return message

    def merge(self, path: str, body: Json) -> str:
        """A merge patch, as the programs write."""
        return self.refusal("PATCH", path, body, MERGE)

    def ask(self, write: Write) -> str:
        """What the API server would say against a write; "" when it would accept it."""
        separator = "&" if "?" in write.path else "?"
        kind = write.content_type if write.method == "PATCH" else "application/json"
        return self.refusal(write.method, f"{write.path}{separator}dryRun=All", write.body, kind)

    def until_refused(self, write: Write, words: str) -> None:
        """Returns once the policy that says so is in force."""
        said = ""
        deadline = time.monotonic() + 30
        while words not in said:
            assert time.monotonic() < deadline, f"{words!r} was not said of {write}, but {said!r}"
            said = self.ask(write)


def _trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))
