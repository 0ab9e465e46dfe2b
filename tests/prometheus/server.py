"""A real Prometheus for one test: it scrapes once a second, and is asked by PromQL."""

import json
import math
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE

Json = dict[str, Any]
_START_SECONDS: Final = DEADLINE
_STOP_SECONDS: Final = DEADLINE


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that runs."""

    url: str

    def query(self, expression: str) -> list[Json]:
        """The series of an instant query; raises AssertionError with the server's words."""
        query = urllib.parse.urlencode({"query": expression})
        found: list[Json] = self._get(f"/api/v1/query?{query}")["result"]
        return found

    def values(self, expression: str) -> list[float]:
        """Of the same, less those that are no number."""
        found = (float(series["value"][1]) for series in self.query(expression))
        return [value for value in found if not math.isnan(value)]

    def targets(self) -> list[Json]:
        """The targets that are scraped, with their health and last error."""
        found: list[Json] = self._get("/api/v1/targets?state=active")["activeTargets"]
        return found

    def rules(self) -> list[Json]:
        """Alerts and recording rules, with health and last error."""
        groups = self._get("/api/v1/rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def scraped(self, target: Json) -> bytes:
        """What a target answers now."""
        with urllib.request.urlopen(target["scrapeUrl"], timeout=DEADLINE) as answer:
            body: bytes = answer.read()
            return body

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=DEADLINE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error


@contextmanager
def running(
    program: Path, folder: Path, scrapes: list[Json], rules: Mapping[str, Json]
) -> Iterator[Prometheus]:
    """A server with nothing in it yet; `rules` are rule files by name."""
    for name, document in rules.items():
        (folder / name).write_text(yaml.safe_dump(document))
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": scrapes,
        "rule_files": sorted(rules),
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    port = _free_port()
    command = (
        os.fspath(program),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, f"it ended: {log.read_text()[-2000:]}"
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                    return True
            except OSError:
                return False

        wait_until(ready, "Prometheus ready", seconds=_START_SECONDS, details=log.read_text)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
