"""A control plane for each project: what admission and controllers do is felt by all others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import controlplane, lifecycle
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.progress import to_stderr
from hack.cluster.versions import Component
from tests.webhook.cluster import Installation


def install_kinds(plane: ControlPlane, component: Component) -> None:
    """Applies a project's custom resource definitions, and waits until they are served."""
    files = sorted((plane.parts.neighbour(component) / "crds").glob("*.yaml"))
    documents = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    kinds: list[dict[str, Any]] = [
        each for each in documents if each and each["kind"] == "CustomResourceDefinition"
    ]
    for kind in kinds:
        kind["spec"].pop("conversion", None)  # its webhook does not run here
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": kinds})
    plane.kubectl("apply", "--server-side", "--filename=-", input=text)
    names = [f"crd/{kind['metadata']['name']}" for kind in kinds]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


@pytest.fixture(scope="module")
def beside(
    neighbour_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A control plane of the module's own, on which nothing is installed yet."""
    folder: Path = tmp_path_factory.mktemp("neighbours")
    with lifecycle.owned(to_stderr) as cluster:
        plane = controlplane.start(cluster, neighbour_parts, to_stderr)
        yield Installation(plane, folder)
    for program in plane.programs:
        program.stop()  # they have ended; this only takes note of it
