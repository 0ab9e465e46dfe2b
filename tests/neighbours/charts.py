"""Other projects' charts on a control plane: their objects without the workloads, and Services that
lead to a process in a workload's place."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import yaml

from hack.cluster.controlplane import ControlPlane
from hack.cluster.programs import endpoints
from hack.cluster.versions import KUBERNETES, Component, resolves_by_endpoints
from tests.waiting import DEADLINE

Json = dict[str, Any]


def rendered(
    plane: ControlPlane, component: Component, namespace: str, *arguments: str
) -> list[Json]:
    """The documents of the project's chart, named after the component."""
    chart = plane.parts.neighbour(component) / "chart"
    command = [str(plane.parts.helm), "template", component.name, str(chart)]
    done = subprocess.run(
        [*command, f"--namespace={namespace}", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def leading_to(address: str, port: int, service: Json) -> list[Json]:
    """The Service without its selector, and the endpoints that make it lead to the address."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    (served,) = service["spec"]["ports"]
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": served.get("name", ""), "port": port, "protocol": "TCP"}],
    }
    old = resolves_by_endpoints(KUBERNETES.version)
    spec = {key: value for key, value in service["spec"].items() if key != "selector"}
    return [
        {**service, "spec": spec},
        piece,
        *([endpoints(namespace, name, [piece])] if old else []),
    ]


def install(plane: ControlPlane, namespace: str, documents: Sequence[Json]) -> None:
    """Makes the namespace and the objects, and waits until the kinds among them are served."""
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    apply(plane, [made])
    apply(plane, documents)
    kinds = [each for each in documents if each["kind"] == "CustomResourceDefinition"]
    names = [f"crd/{each['metadata']['name']}" for each in kinds]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


def apply(plane: ControlPlane, documents: Sequence[Json]) -> None:
    """Server-side, and also where somebody else has written the same fields."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
    plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=text)
