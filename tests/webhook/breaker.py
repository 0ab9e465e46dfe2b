"""Another company's mutating webhook: it takes hostIPC away, or adds slices."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.webhook import tls
from tests.webhook.cases import Manifest
from tests.webhook.cluster import Installation

Edit = Callable[[Manifest], list[dict[str, Any]]]
"""The operations of a JSON patch for a pod; none leave it alone."""


def take_host_ipc(pod: Manifest) -> list[dict[str, Any]]:
    """From every pod that has it."""
    return [{"op": "remove", "path": "/spec/hostIPC"}] if pod["spec"].get("hostIPC") else []


def add_slice(pod: Manifest) -> list[dict[str, Any]]:
    """To pods whose containers ask for nothing, as a webhook does that hides resource names."""
    if pod["spec"]["containers"][0].get("resources", {}).get("limits"):
        return []
    value = {"limits": {"nvidia.com/gpu-10gb": "1"}, "requests": {"nvidia.com/gpu-10gb": "1"}}
    return [{"op": "add", "path": "/spec/containers/0/resources", "value": value}]


class _Server(HTTPServer):
    edit: Edit


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        edits = self.server.edit(request["object"])
        if edits:
            patch = json.dumps(edits).encode()
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
        answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        body = json.dumps({**answer, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def breaking(
    installation: Installation,
    folder: Path,
    reinvocation: str,
    *,
    edit: Edit = take_host_ipc,
    name: str = "zz-breaker",
) -> Iterator[None]:
    """While inside, the webhook is called, and again if `reinvocation` is IfNeeded.

    Configurations are called in the order of their names; ours is mpslice-pods.
    """
    address = installation.plane.address
    pair = tls.make_for_address(folder, address)
    server = _Server((address, 0), _Handler)
    server.edit = edit
    server.socket = pair.server.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"https://{address}:{server.server_address[1]}/"
        installation.apply([_configuration(name, url, pair.authority, reinvocation)])
        yield
    finally:
        installation.plane.kubectl("delete", "mutatingwebhookconfiguration", name)
        server.shutdown()
        server.server_close()
        thread.join()


def _configuration(name: str, url: str, authority: bytes, reinvocation: str) -> Manifest:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "breaker.example.com",
                "clientConfig": {"url": url, "caBundle": base64.b64encode(authority).decode()},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "reinvocationPolicy": reinvocation,
                "rules": [{**rule, "operations": ["CREATE"]}],
            }
        ],
    }
