"""A team's namespace under a stock ResourceQuota, and pods by the size of their slice."""

import json
from typing import Any

import yaml

from hack.cluster.layout import CHECKOUT
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE
from tests.webhook.cases import Manifest, container
from tests.webhook.cluster import Installation, called, create
from tests.webhook.test_real_scope import namespace

EXAMPLES = CHECKOUT / "helm" / "examples"
QUOTA = "requests.mpslice.io/gb"
SIDECAR = {"restartPolicy": "Always"}


def sized(size: int, name: str = "main", **fields: Any) -> Manifest:
    return container({f"nvidia.com/gpu-{size}gb": 1}, name=name, **fields)


def example(file: str) -> Manifest:
    found: Manifest = yaml.safe_load((EXAMPLES / file).read_text())
    return found


def quota_of(gb: int) -> Manifest:
    """The example, for so many gb."""
    found = example("resource-quota.yaml")
    found["spec"]["hard"] = {QUOTA: str(gb)}
    return found


class Team:
    """A namespace of the test's own, in which things are really created."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.installation = installation
        self.name = namespace(installation, name)

    def apply(self, manifest: Manifest) -> None:
        here = {**manifest["metadata"], "namespace": self.name}
        self.installation.apply([{**manifest, "metadata": here}])

    def create(self, name: str, manifest: Manifest) -> str:
        """What the API server says against it, "" where it takes it."""
        made = called(manifest, name, self.name)
        stdout, stderr = create(self.installation, made, real=True)
        return "" if "created" in stdout else stderr

    def kubectl(self, *arguments: str) -> str:
        stdout, stderr = self.installation.kubectl(f"--namespace={self.name}", *arguments)
        return stdout or stderr

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output=json"))

    def delete(self, *what: str) -> None:
        self.kubectl("delete", *what, "--grace-period=0", "--force")

    def used(self) -> int:
        status = self.get("resourcequota", "gpu-memory").get("status", {})
        return int(status.get("used", {}).get(QUOTA, -1))

    def until_used(self, gb: int) -> None:
        wait_until(lambda: self.used() == gb, f"{gb} gb are used", seconds=DEADLINE)
