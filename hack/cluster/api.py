"""The few calls that the harness itself makes to the API server.

Apart from mpslice's own Kubernetes plumbing, which the cluster is there to test.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from hack.cluster.errors import ClusterError
from hack.cluster.pki import KeyPair

_DEADLINE = 60.0


class NotAnswered(ClusterError):
    """The API server did not answer, or not with success; carries the status, if any."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Api:
    """An API server and the certificate that we show it."""

    url: str
    context: ssl.SSLContext

    @classmethod
    def connect(cls, url: str, authority: KeyPair, client: KeyPair) -> Api:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.load_cert_chain(client.certificate, client.key)
        return cls(url, context)

    def get(self, path: str) -> Any:
        """The decoded object at `path`. Raises NotAnswered."""
        return self.request("GET", path)

    def find(self, path: str) -> Any | None:
        """Like `get`; None where nothing is."""
        try:
            return self.get(path)
        except NotAnswered as error:
            if error.status == 404:
                return None
            raise

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        """Send `body` as JSON; returns the decoded answer, or its text if it is no JSON.

        Raises:
            NotAnswered: No answer within 60 s, or one that is not a success.
        """
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_DEADLINE, context=self.context) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")
            raise NotAnswered(f"{method} {path}: {error.code} {message}", error.code) from error
        except (urllib.error.URLError, OSError) as error:
            raise NotAnswered(f"{method} {path}: {error}") from error
        try:
            return json.loads(text)
        except ValueError:
            return text


def healthy(url: str) -> bool:
    """Whether a component's own health endpoint, with a certificate it made, says ok."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
