"""Another company's mutating webhook, which takes hostIPC away from every pod that has it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.webhook import tls
from tests.webhook.cases import Manifest
from tests.webhook.cluster import Installation


class _Breaker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        if request["object"]["spec"].get("hostIPC"):
            patch = json.dumps([{"op": "remove", "path": "/spec/hostIPC"}]).encode()
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
def breaking(installation: Installation, folder: Path, reinvocation: str) -> Iterator[None]:
    """While inside, the webhook is called after ours, and again if `reinvocation` is IfNeeded."""
    address = installation.plane.address
    pair = tls.make_for_address(folder, address)
    server = HTTPServer((address, 0), _Breaker)
    server.socket = pair.server.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"https://{address}:{server.server_address[1]}/"
        installation.apply([_configuration(url, pair.authority, reinvocation)])
        yield
    finally:
        installation.plane.kubectl("delete", "mutatingwebhookconfiguration", "zz-breaker")
        server.shutdown()
        server.server_close()
        thread.join()


def _configuration(url: str, authority: bytes, reinvocation: str) -> Manifest:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "zz-breaker"},
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
