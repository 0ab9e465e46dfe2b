"""Secrets as programs in pods see them: files in a folder."""

import base64
import os
import threading
from pathlib import Path
from types import TracebackType

from hack.cluster.api import Api
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE


class Mounted:
    """Keeps the files of a Secret, given by its path in the API, in a folder, as the kubelet does.

    On entering it waits until the Secret holds a certificate, on `start` it does not.
    """

    def __init__(self, api: Api, secret: str, folder: Path) -> None:
        self._api, self._secret, self._folder = api, secret, folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._written = ""

    def __enter__(self) -> "Mounted":
        wait_until(self._write, "the Secret holds a certificate", seconds=DEADLINE)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Follows the Secret, whatever it holds yet."""
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(0.2):
            self._write()

    def _write(self) -> bool:
        secret = self._api.find(self._secret) or {}
        data = secret.get("data") or {}
        if not data.get("tls.crt") or not data.get("tls.key"):
            return False
        if (version := secret["metadata"]["resourceVersion"]) != self._written:
            # The key first: who watches the files reads both when the certificate has changed.
            for name in ("tls.key", "tls.crt"):
                new = self._folder / f"{name}.new"
                new.write_bytes(base64.b64decode(data[name]))
                os.replace(new, self._folder / name)
            self._written = version
        return True
